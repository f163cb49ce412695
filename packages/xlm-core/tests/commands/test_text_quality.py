"""`xlm text_quality`: files in, a table and a record out, errors in one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from xlm.cli.main import main
from xlm.commands.text_quality import read_request
from xlm.commands.words import read_command
from xlm.errors import ConfigError, DataError
from xlm.inference.texts import read_texts


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "generations.jsonl"
    # A line separator inside a text: JSON does not escape it.
    rows = [{"prediction": "in the\u2028end in the end", "ended": True}, {"prediction": ""}, {"text": "far away"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def test_files_of_texts(samples: Path, tmp_path: Path) -> None:
    texts, writer = read_texts(str(samples))
    assert [(text.text, text.ended) for text in texts] == [
        ("in the\u2028end in the end", True), ("", None), ("far away", None)
    ]  # fmt: skip
    assert writer is None
    assert read_texts(str(tmp_path))[0] == texts
    (tmp_path / "lines.txt").write_text("one\n\ntwo words\n")
    assert [text.text for text in read_texts(str(tmp_path / "lines.txt"))[0]] == ["one", "", "two words"]
    (tmp_path / "other.jsonl").write_text('"a"\n{"truth": "b", "checkpoint": "runs/x"}\n')
    texts, writer = read_texts(str(tmp_path / "other.jsonl"), "truth")
    assert ([text.text for text in texts], writer) == (["a", "b"], "runs/x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, "There is no file of texts"),
        ("a.jsonl", b"", "There are no texts"),
        ("a.jsonl", b"{", "line 1 is not JSON"),
        ("a.jsonl", b'"a"\n{"answer": "b"}\n', "line 2 has no text under 'prediction' or 'text'"),
        ("a.jsonl", b"3", "line 1 has no text"),
    ],
)
def test_files_that_are_none(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts(str(tmp_path / name))


def test_requests() -> None:
    request = read_request(*read_command(["text_quality", "samples=[a,b]", "c", "window=64", "train=none"]))
    assert (request.samples, request.options.window, request.options.train) == (("a", "b", "c"), 64, "none")
    for args, message in (
        (["text_quality"], "Which texts"),
        (["text_quality", "a", "jugde=b"], "Did you mean 'judge'"),
        (["text_quality", "a", "batch_size=0"], "batch_size is 0, and must be at least 1"),
        (["text_quality", "a", "batch_size=few"], "batch_size is 'few'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_request(*read_command(args))


def test_a_table_and_a_record_in_words(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.txt").write_text("in the end\nof it\n")
    asked = ["num_texts=7", "train_examples=9"]
    assert main(["text_quality", "generations.jsonl", "train=train.txt", "output=out/quality.json", *asked]) == 0
    shown = capsys.readouterr().out
    assert "num_texts is 7, but there are only 3 texts in generations.jsonl; all of them are used." in shown
    assert "train_examples is 9, but there are only 2 training texts; all of them are used." in shown
    assert "entropy of a text" in shown
    assert "in words" in shown
    assert "perplexity" not in shown
    record = json.loads(Path("out/quality.json").read_text())
    results = record["results"]["generations.jsonl"]
    error = math.sqrt((4 / 9 + 4 / 9) * 3 / 2) / 6
    assert results["copied_2"] == {
        "value": pytest.approx(4 / 6), "se": pytest.approx(error), "n": 3, "se_over": "examples",
    }  # fmt: skip
    assert results["length"]["value"] == pytest.approx(8 / 3)
    assert (record["judge"], record["unit"]) == (None, "words")
    assert record["training"] == {"source": "train.txt", "examples": 2, "tokens": 5, "asked": 9}
    assert "| generations.jsonl | 3 |" in Path("out/quality.md").read_text()
    assert main(["text_quality", "generations.jsonl", "judge=./nowhere"]) == 1
    assert "There is no folder nowhere to use as judge." in capsys.readouterr().err
    assert main(["text_quality", "generations.jsonl", "judge=./nowhere", "protocol=mldm"]) == 1
    assert "protocol is 'mldm', and must be xlm or mdlm. Did you mean 'mdlm'?" in capsys.readouterr().err

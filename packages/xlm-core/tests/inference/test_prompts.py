"""Prompts from a list, a file of lines or of JSON lines, standard input and pipes; words that a tokenizer lacks."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.data.trained_tokenizer import Kind, train_tokenizer
from xlm.errors import ConfigError, DataError
from xlm.inference.prompts import Prompt, piped_prompts, read_prompts, unknown_words, warn_of_unknown_words


def test_of_the_command_line() -> None:
    assert read_prompts(None, None) is None
    assert read_prompts(["a", 3], None) == [Prompt("a"), Prompt("3")]
    assert read_prompts("a b", None) == [Prompt("a b")]
    assert read_prompts([""], None) == [Prompt("")]


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("p.txt", "a b\n\n  \nc\n", [Prompt("a b"), Prompt("c")]),
        ("p.txt", '{"prompt": "a"}\n', [Prompt('{"prompt": "a"}')]),
        ("p.jsonl", '{"prompt": "a\\nb", "id": 7}\n{"prompt": ""}', [Prompt("a\nb", {"id": 7}), Prompt("")]),
        ("p.jsonl", '"c"\n', [Prompt("c")]),
    ],
)  # fmt: skip
def test_of_a_file(tmp_path: Path, name: str, text: str, prompts: list[Prompt]) -> None:
    (tmp_path / name).write_text(text)
    assert read_prompts(None, tmp_path / name) == prompts


@pytest.mark.parametrize("arguments", [("-", None), (None, "-")])
def test_of_standard_input(monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, Any]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert read_prompts(*arguments) == [Prompt("a"), Prompt("b")]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "a", "id": 1}\n'))
    assert read_prompts(*arguments) == [Prompt("a", {"id": 1})]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(DataError, match="There is no prompt in standard input"):
        read_prompts(*arguments)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "There is no prompt in .*p.txt. Write one prompt per line"),
        ("p.jsonl", b'"a"\nb\n', "p.jsonl, line 2 is not JSON"),
        ("p.jsonl", b'{"text": "a"}\n', 'p.jsonl, line 1 has no text under "prompt"'),
        ("p.jsonl", b"3\n", 'line 1 has no text under "prompt"'),
    ],
)
def test_files_without_prompts(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(None, tmp_path / name)


def test_none_where_some_were_promised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file of prompts at"):
        read_prompts(None, tmp_path / "none")
    with pytest.raises(ConfigError, match="are both given"):
        read_prompts(["a"], "p.txt")
    with pytest.raises(ConfigError, match="is an empty list"):
        read_prompts([], None)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a, b=c\n\nit's\n", [Prompt("a, b=c"), Prompt("it's")]),
        ('{"prompt": "a", "id": 1}\n', [Prompt("a", {"id": 1})]),
        ("\n \n", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("is_file", [True, False])
def test_of_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, prompts: list[Prompt] | None, is_file: bool
) -> None:
    (tmp_path / "p").write_text(text)
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    with open(tmp_path / "p" if is_file else reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert piped_prompts() == prompts


def test_a_pipe_that_nobody_writes_to(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("xlm.inference.prompts.PIPE_SECONDS", 0.01)
    reading, writing = os.pipe()
    with open(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert piped_prompts() is None
    os.close(writing)
    assert "had no data for 0.01 seconds" in caplog.text


def test_where_no_prompts_are_piped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for closed in (None, io.StringIO("a\n")):
        monkeypatch.setattr("sys.stdin", closed)
        assert piped_prompts() is None
    with open(os.devnull) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert piped_prompts() is None
    # The rest of a file that a shell's loop reads line by line is not for this program.
    (tmp_path / "p").write_text("a\nb\n")
    with (tmp_path / "p").open() as stdin:
        os.lseek(stdin.fileno(), 2, os.SEEK_SET)
        monkeypatch.setattr("sys.stdin", stdin)
        assert piped_prompts() is None
        assert stdin.read() == "b\n"


@pytest.mark.parametrize(
    ("kind", "text", "unknown"),
    [
        ("word", "the zebra eats, the  zebra", ["zebra", "eats,"]),
        ("word", "the [UNK] [MASK] cat", []),
        ("character", "the caté ü", ["é", "ü"]),
        ("wordpiece", "the Cat é", ["C", "é"]),
        ("bpe", "zebra é", []),
    ],
)
def test_unknown_words(kind: Kind, text: str, unknown: list[str]) -> None:
    tokenizer = train_tokenizer(["the cat sat", "the cat"] * 9, kind, 300)
    found = unknown_words(tokenizer, text)
    assert found == (["Cat", "é"] if kind == "wordpiece" else unknown)


def test_unknown_words_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    numbers = SimpleSpaceTokenizer.for_numbers(3)
    warn_of_unknown_words(numbers, ["0 1 2", ""])
    assert caplog.text == ""
    warn_of_unknown_words(numbers, ["0 x 3", "x"])
    assert "Not in the model's vocabulary: 'x', '3'. The model sees [UNK] in their place." in caplog.text
    caplog.clear()
    warn_of_unknown_words(numbers, [" ".join(map(str, range(3, 20)))])
    assert "'12' and 7 more. The model" in caplog.text
    assert len(caplog.records) == 1

"""`xlm train_tokenizer`: all kinds of tokenizers, and what cannot be trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.cli.main import main
from xlm.data.pretrained_tokenizers import load_auto_tokenizer
from xlm.data.trained_tokenizer import KINDS

TEXTS = ["The cat sat on the mat.", "Die Katze saß da.", "a  b\tc", "ACGT"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS * 20), encoding="utf-8")
    (tmp_path / "rows.csv").write_text("name,text\n" + "".join(f"{number},x{number}\n" for number in range(9)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_complete_and_reads_what_it_has_seen(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train_tokenizer", "texts.txt", "out=made", f"kind={kind}", "vocab_size=300"]) == 0
    tokenizer = load_auto_tokenizer("made")
    assert f"{kind}, {len(tokenizer)} tokens, written to made" in capsys.readouterr().out
    assert len(tokenizer) == tokenizer.full_vocab_size <= 300
    special = {getattr(tokenizer, f"{role}_token_id") for role in ("pad", "cls", "mask", "eos", "bos", "sep", "unk")}
    assert len(special) == 7
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        if kind in ("bpe", "character", "byte"):
            assert tokenizer.decode(ids) == text
        if kind in ("word", "character", "byte"):
            assert len(ids) == {"word": len(text.split()), "character": len(text), "byte": len(text.encode())}[kind]
    unknown = tokenizer.encode("\u4e2d", add_special_tokens=False)
    assert (tokenizer.unk_token_id in unknown) == (kind not in ("bpe", "byte"))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "Which texts? xlm train_tokenizer FILE … out=FOLDER."),
        (["texts.txt"], "Where to? xlm train_tokenizer FILE … out=FOLDER."),
        (["texts.txt", "out=."], "already exists and is not an empty folder. Nothing was written."),
        (["text.txt", "out=new"], "No such file or folder of data: text.txt. Did you mean 'texts.txt'?"),
        (["texts.tx", "out=new"], "No such file or folder of data: texts.tx. Did you mean 'texts.txt'?"),
        (["rows.csv", "columns=txt", "out=new"], "The data have no column txt; they have: name, text."),
        (["texts.txt", "out=new", "vocab_size=263"], "vocab_size must be above 263: all bytes and special tokens"),
        (
            ["texts.txt", "out=new", "vocab_size=7", "kind=character"],
            "vocab_size must be above 7: the number of",
        ),
        (["texts.txt", "out=new", "kind=bpee"], "wordpiece, word, character or byte. Did you mean 'bpe'?"),
    ],
)
def test_errors(words: list[str], error: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train_tokenizer", *words]) == 1
    assert error in capsys.readouterr().err
    assert not (folder / "new").exists()

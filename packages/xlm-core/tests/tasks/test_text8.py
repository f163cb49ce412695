"""Characters of 27 kinds: published splits by position, chunks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.data.alphabet_tokenizer import alphabet_tokenizer
from xlm.data.sources import GeneratorSource
from xlm.errors import ConfigError, DataError
from xlm.tasks.text8 import ALPHABET, Characters, reduced


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """1,000 characters; each chunk of ten names its place."""
    path = tmp_path / "text8"
    path.write_text("".join(f"chunk {chr(97 + i // 10)} {chr(97 + i % 10)}"[:10].ljust(10) for i in range(100)))
    return path


def chunks(path: Path, split: str, **options: int) -> list[str]:
    return [row["text"] for row in Characters(split=split, path=str(path), chunk_size=10, **options)]


def test_splits_are_positions_and_cover_the_file(file: Path) -> None:
    found = {split: chunks(file, split) for split in ("train", "val", "test")}
    assert {split: len(texts) for split, texts in found.items()} == {"train": 90, "val": 5, "test": 5}
    assert sorted(found["val"]) == [f"chunk j {letter} "[:10] for letter in "abcde"]
    assert len({text for texts in found.values() for text in texts}) == 100
    assert set(found["train"]) | set(found["val"]) | set(found["test"]) == {
        file.read_text()[start : start + 10] for start in range(0, 1000, 10)
    }


def test_the_order_depends_on_the_seed_alone(file: Path) -> None:
    everything = chunks(file, "train")
    assert everything == chunks(file, "train") != sorted(everything)
    assert sorted(chunks(file, "train", seed=1)) == sorted(everything)
    assert chunks(file, "train", seed=1) != everything
    assert [row["text"] for row in Characters(None, 7, path=str(file), chunk_size=10)] == everything[:7]
    # Characters that don't fill a chunk are left out.
    assert len([*Characters(path=str(file), chunk_size=70)]) == 12


def test_a_change_of_the_file_is_another_source(file: Path) -> None:
    source = GeneratorSource("xlm.tasks.text8.Characters", None, {"path": str(file), "split": "val"})
    before = source.identity()
    file.write_text(file.read_text().replace("chunk", "piece"))
    assert source.identity() != before
    with pytest.raises(DataError, match=r"No such file or folder of data: .*text9"):
        GeneratorSource("xlm.tasks.text8.Characters", None, {"path": str(file.with_name("text9"))}).identity()


def test_what_is_refused(file: Path) -> None:
    with pytest.raises(DataError, match=r"text8 has no split 'tset'\. .* Did you mean 'test'"):
        Characters(split="tset")
    with pytest.raises(DataError, match="chunk_size is 0, and must be at least 1"):
        Characters(chunk_size=0)
    with pytest.raises(DataError, match=r"has 50 characters for val, less than one chunk of 64"):
        list(Characters(split="val", path=str(file), chunk_size=64))
    file.write_text(file.read_text()[:930] + "É" + file.read_text()[931:])
    with pytest.raises(DataError, match=r"text8, character 931 is 'Ã'; text8 has only a to z and blanks"):
        chunks(file, "val")
    assert len(chunks(file, "train")) == 90


def test_the_king_james_bible_in_27_symbols() -> None:
    assert reduced("And Noah's  sons: 3!\n") == "and noah s sons three"
    texts = [row["text"] for row in Characters(None, 50, split="test", chunk_size=64)]
    assert {len(text) for text in texts} == {64}
    assert {character for text in texts for character in text} <= set(ALPHABET)


def test_one_token_per_character() -> None:
    tokenizer = alphabet_tokenizer(ALPHABET)
    text = " a quick  brown fox "
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == [ALPHABET.index(character) for character in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer("é", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
    assert tokenizer.full_vocab_size == 27 + 7
    special = {getattr(tokenizer, f"{role}_token_id") for role in ("pad", "cls", "mask", "eos", "bos", "sep", "unk")}
    assert len(special) == 7
    assert min(special) == 27


@pytest.mark.parametrize("symbols", ["", "aa", ["a", ""]])
def test_an_alphabet_has_different_symbols(symbols: str | list[str]) -> None:
    with pytest.raises(ConfigError, match="An alphabet needs different symbols that are not empty"):
        alphabet_tokenizer(symbols)

"""Proteins of FASTA files, and a token per amino acid."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from xlm.errors import DataError
from xlm.tasks.uniref50 import AMINO_ACIDS, Proteins, protein_tokenizer

FASTA = ">UniRef50_A0 Uncharacterized n=1 Tax=x\nMKV\nLAX\n\n>UniRef50_A1\nmgu*\n>empty\n>UniRef50_A2\nWW\n"


def sequences(path: Path) -> list[str]:
    return [row["text"] for split in ("train", "val", "test") for row in Proteins(split=split, path=str(path))]


@pytest.mark.parametrize("name", ["a.fasta", "a.fasta.gz"])
def test_sequences_of_several_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(FASTA.encode()) if name.endswith(".gz") else FASTA.encode())
    assert sorted(sequences(path)) == ["MGU", "MKVLAX", "WW"]


def test_splits_are_disjoint_and_the_order_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.fasta"
    every = [f"{a}{b}" for a in AMINO_ACIDS for b in AMINO_ACIDS]
    path.write_text("".join(f">{text}\n{text}\n" for text in every))
    found = {
        split: [row["text"] for row in Proteins(split=split, path=str(path))] for split in ("train", "val", "test")
    }
    assert sorted(text for texts in found.values() for text in texts) == sorted(every)
    assert 0.85 < len(found["train"]) / len(every) < 0.95
    assert found["train"] == [text for text in every if text in set(found["train"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nMK1\n", r"a\.fasta, line 2: '1' is not an amino acid"),
        ("MKV\n", r"a\.fasta, line 1: a FASTA file begins with a line '>name', not 'MKV'"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.fasta"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        sequences(path)


def test_a_token_per_amino_acid() -> None:
    tokenizer = protein_tokenizer()
    ids = tokenizer("MKVLAX", add_special_tokens=False)["input_ids"]
    assert len(ids) == 6
    assert tokenizer.decode(ids) == "MKVLAX"
    assert tokenizer.unk_token_id not in tokenizer(AMINO_ACIDS, add_special_tokens=False)["input_ids"]

"""What is measured of a person's own data: rows with text, shares to hold out, splits of folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from xlm.data.locator import part_of_files
from xlm.data.own_facts import files_of_splits, lengths, measure, shares
from xlm.data.selection import Reading
from xlm.errors import DataError

READING = Reading(columns=("text",), skip_empty=True)


def written(path: Path, count: int) -> str:
    path.write_text("".join(f"Sentence number {i}.\n\n" for i in range(count)))
    return str(path)


@pytest.mark.parametrize(("count", "share"), [(5, 0.2), (20, 0.2), (100, 0.2), (500, 0.05), (60_000, 0.0333)])
def test_every_part_gets_rows(tmp_path: Path, count: int, share: float) -> None:
    name = written(tmp_path / "a.txt", count)
    facts = measure(name, ["text"], READING)
    assert facts.num_rows == count  # blank lines don't count
    found = shares(facts, ["val", "test"])
    assert found["val"] == found["test"] >= share
    parts = [part_of_files({"train": name}, part, found, READING) for part in ("train", "val", "test")]
    counts = [sum(1 for _ in part.rows(None)) for part in parts]
    assert min(counts) > 0
    assert sum(counts) == count
    assert max(counts[1:]) < 2_200


@pytest.mark.parametrize(("text", "rows"), [("one\n", "1 row with"), ("a\nb\n" * 9, "18 rows with text, 2 of")])
def test_too_few_different_rows(tmp_path: Path, text: str, rows: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    facts = measure(str(tmp_path / "a.txt"), ["text"], READING)
    with pytest.raises(DataError, match=rows):
        shares(facts, ["val", "test"])
    assert shares(facts, []) == {}


def test_no_text(tmp_path: Path) -> None:
    for name, content in (("empty.txt", b""), ("blank.txt", b"\n \n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is empty: there is no text in it"):
            measure(str(tmp_path / name), ["text"], READING)
    (tmp_path / "b.txt").write_bytes(b"PK\x03\x04\x00\x00")
    with pytest.raises(DataError, match=r"is not a text file, although its name ends in .txt"):
        measure(str(tmp_path / "b.txt"), ["text"], READING)
    (tmp_path / "c.csv").write_text("question,answer\na,b\n")
    with pytest.raises(DataError, match=r"has no column text\. It has: question, answer."):
        measure(str(tmp_path / "c.csv"), ["text"], READING)


def test_lengths_are_of_rows_from_the_whole(tmp_path: Path) -> None:
    facts = measure(written(tmp_path / "a.txt", 4_000), ["text"], READING)
    found = lengths(facts, lambda row: {"input_ids": row["text"].split()})
    assert found == {"input_ids": [3] * 2_000}


def test_splits_of_folders(tmp_path: Path) -> None:
    for folder, names in (
        ("plain", "ab"),
        ("splits", ("train", "validation")),
        ("odd", ("train", "notes")),
        ("t", ("test",)),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            written(tmp_path / folder / f"{name}.txt", 3)
    assert files_of_splits(str(tmp_path / "plain")) == {}
    assert sum(1 for _ in part_of_files({"train": str(tmp_path / "plain")}, "train", {}).rows(None)) == 12
    assert files_of_splits(f"{tmp_path}/splits") == {
        "train": f"{tmp_path}/splits/train", "val": f"{tmp_path}/splits/validation",
    }  # fmt: skip
    with pytest.raises(DataError, match=r"notes.txt belongs to none. To use all files: data.text="):
        files_of_splits(str(tmp_path / "odd"))
    with pytest.raises(DataError, match="without train"):
        files_of_splits(str(tmp_path / "t"))
    rows = Dataset.from_list([{"text": "a"}])
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    assert set(files_of_splits(f"{tmp_path}/saved")) == {"train", "test"}

"""Slices, delimiters, encodings, filters and duplicates; an error still names the row of the file."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from xlm.data.locator import locate, part_of_files
from xlm.data.manager import DatasetManager
from xlm.data.selection import Reading, removed_from
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import BadTargetError, DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)


def texts(name: Any, **options: Any) -> list[str]:
    return [row["text"] for row in locate(name, **options).rows(None)]


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    found = [f"line {number}" for number in range(7)]
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in found))
    (tmp_path / "b.txt").write_text("".join(f"{line}\n" for line in found[:3]))
    rows = Dataset.from_list([{"text": line} for line in found])
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "splits"))
    rows.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.txt").write_text((tmp_path / "a.txt").read_text())
    return found


BOUNDS = [("[:50%]", slice(0, 4)), ("[50%:]", slice(4, None)), ("[-2:]", slice(5, None)), ("[:100]", slice(0, None)),
          ("[-30%:-1]", slice(5, 6)), ("[2:4]", slice(2, 4)), ("[ 10% : 3 ]", slice(1, 3))]  # fmt: skip


@pytest.mark.parametrize(("bounds", "expected"), BOUNDS)
def test_slices_of_every_source(tmp_path: Path, lines: list[str], bounds: str, expected: slice) -> None:
    for name in ("a.txt", "splits/train", "saved", "folder/train"):
        source = locate(f"{tmp_path / name}{bounds}")
        assert [row["text"] for row in source.rows(None)] == lines[expected]
        # A message names the row of the file.
        assert source.where(0).endswith(f" {expected.start + 1}")
    assert texts(f"{tmp_path}/[ab].txt{bounds}", reading=Reading(dedup=True)) == list(
        dict.fromkeys((lines + lines[:3])[slice(*_of_ten(bounds))])
    )
    assert texts(str(tmp_path / "a.txt"), split=f"train{bounds}") == lines[expected]
    if bounds in ("[:50%]", "[50%:]", "[-2:]", "[2:4]"):  # `datasets` has one unit for both bounds, and no blanks
        assert texts(f"{tmp_path}/folder", split=f"train{bounds}") == lines[expected]


def _of_ten(bounds: str) -> tuple[int | None, ...]:
    """The bounds in ten rows, by the rule of `datasets`."""
    parts = [part.strip() for part in bounds[1:-1].split(":")]
    return tuple(None if not p else round(int(p[:-1]) / 10) if p.endswith("%") else int(p) for p in parts)


def test_a_slice_is_part_of_the_identity_and_a_file_has_no_splits(tmp_path: Path, lines: list[str]) -> None:
    names = [f"{tmp_path}/a.txt{bounds}" for bounds in ("", "[:50%]", "[50%:]", "[:2]")]
    assert len({repr(locate(name).identity()) for name in names}) == 4
    with pytest.raises(DataError, match=r"a\.txt is a single file, so it has no split 'test'\. Name the file alone\."):
        locate(str(tmp_path / "a.txt"), split="test")
    with pytest.raises(DataError, match="No such file or folder of data"):
        locate(str(tmp_path / "none.txt[:5]"))


@pytest.mark.parametrize("delimiter", [";", "|", "\t", "\\t", "tab"])
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    real = "\t" if delimiter in ("\\t", "tab") else delimiter
    (tmp_path / "a.csv").write_text(f'text{real}n\n"a{real}b"{real}1\n')
    reading = Reading(delimiter=delimiter)
    assert list(locate(str(tmp_path / "a.csv"), reading=reading).rows(None)) == [{"text": f"a{real}b", "n": "1"}]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16", "shift_jis", "utf-8"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    written = ["表 ソ", "x"] * 3 if encoding == "shift_jis" else ["é\u00a0ü", "", "x"] * 3
    content = {
        "a.txt": "".join(f"{text}\n" for text in written),
        "b.csv": "text\n" + "".join(f'"{t}"\n' for t in written),
    }
    for name, text in content.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert texts(str(tmp_path / name), reading=Reading(encoding=encoding)) == written
    if encoding == "latin-1":
        with pytest.raises(DataError, match=r"a\.txt, line 1 is not UTF-8"):
            texts(str(tmp_path / "a.txt"))
        with pytest.raises(DataError, match=r"a\.txt, line 1 is not ascii: byte 1 of the line is 0xe9"):
            texts(str(tmp_path / "a.txt"), reading=Reading(encoding="ascii"))


def is_long(row: dict[str, Any]) -> bool:
    return len(row["text"]) > 1


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of this module, as a user's own."""
    monkeypatch.setitem(sys.modules, "own_functions", sys.modules[__name__])
    return "own_functions"


def test_filters_and_duplicates_are_counted(tmp_path: Path, functions: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("1 2\n3\n1 2\n4 5\n\n1 2\n6 x\n")
    reading = {"filter": f"{functions}.is_long", "dedup": True, "columns": ["text"]}
    source = locate(str(tmp_path / "a.txt"), reading=Reading.of(reading))
    assert [row["text"] for row in source.rows(None)] == ["1 2", "4 5", "6 x"]
    assert removed_from(source) == {"filtered": 2, "duplicates": 2}
    assert source.where(2).endswith("line 7")
    options: dict[str, Any] = {"reading": reading, "preprocess_function": "xlm.datamodule.text_to_input_ids"}
    for _ in range(2):  # built, and found
        with caplog.at_level(logging.WARNING):
            entry = DatasetManager(None, str(tmp_path / "a.txt"), **options).prepare(TOKENIZER, tmp_path / "cache")
        assert entry is not None
        assert len(entry.rows) == 3
        assert f"rows of {tmp_path}/a.txt that are left out: duplicates: 2, filtered: 2." in caplog.text
        caplog.clear()
    # A duplicate is never in two parts, and the parts together have every text once.
    files = {"train": str(tmp_path / "a.txt")}
    parts = [part_of_files(files, part, {"val": 0.4}, Reading.of(reading)) for part in ("train", "val")]
    assert sorted(row["text"] for part in parts for row in part.rows(None)) == ["1 2", "4 5", "6 x"]


def test_duplicates_by_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\na,1\na,2\nb,1\na,1\n")
    name = str(tmp_path / "a.csv")
    assert texts(name, reading=Reading(dedup=True)) == ["a", "a", "b"]
    assert texts(name, reading=Reading(dedup=True, columns=("text",))) == ["a", "b"]
    # Rows without the column are not all the same: preprocessing reports them.
    assert len(texts(name, reading=Reading(dedup=True, columns=("body",)))) == 4


def fails(row: dict[str, Any]) -> bool:
    return bool(1 / len(row["text"]))


def test_mistakes_are_named(tmp_path: Path, functions: str) -> None:
    for options, reason in (
        ({"delimiter": ";;"}, "reading.delimiter is ';;', and must be one character"),
        ({"encoding": "latin-99"}, "reading.encoding is 'latin-99', and must be one of utf-8"),
        ({"encoding": "hex"}, "reading.encoding is 'hex'"),
        ({"dedup": "maybe"}, "reading.dedup is 'maybe', and must be true or false"),
        ({"filter": 3}, "reading.filter is 3, and must be a text or null"),
    ):
        with pytest.raises(DataError, match=reason):
            Reading.of(options)
    (tmp_path / "a.txt").write_text("a\n\n")
    with pytest.raises(BadTargetError, match="no_such_module"):
        texts(str(tmp_path / "a.txt"), reading=Reading(filter="no_such_module.f"))
    with pytest.raises(ZeroDivisionError) as caught:
        texts(str(tmp_path / "a.txt"), reading=Reading(filter=f"{functions}.fails"))
    assert caught.value.__notes__ == [f"In the filter {functions}.fails, for {tmp_path}/a.txt, line 2."]


def test_rows_beyond_num_examples_of_a_replaced_source_are_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n3\n")
    name = str(tmp_path / "a.txt")

    def said(**options: Any) -> str:
        caplog.clear()
        manager = DatasetManager(preprocess_function="xlm.datamodule.text_to_input_ids", **options)
        manager.label = "train.lm"
        manager.prepare(TOKENIZER, tmp_path / "cache")
        return caplog.text

    assert (
        f"train.lm uses the first 2 rows of {name}, which has more: its num_examples is 2. For all rows: "
        "datamodule.dataset_managers.train.lm.num_examples=null"
    ) in said(data_file=name, num_examples=2)
    assert said(data_file=name, num_examples=3) == ""
    assert said(full_name=name, num_examples=2) == ""  # a task's own number

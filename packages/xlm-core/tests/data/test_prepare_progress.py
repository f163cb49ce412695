"""The share that is read, the rate and the remaining time, in a terminal and in a file."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset
from pyarrow import parquet
from rich.console import Console

from xlm.data.locator import locate, part_of_files
from xlm.data.prepare_progress import ShareRead, shown
from xlm.data.rows import Chunk

ROWS = [{"text": f"row {number:06d}"} for number in range(80_000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(path: Path) -> None:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == "":
        Dataset.from_list(ROWS).save_to_disk(str(path))
    else:
        path.write_text(LINES)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "saved"])
def test_the_share_of_a_source(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    source = locate(str(tmp_path / name))
    share = ShareRead(source)
    found = [share(number) for number, _ in enumerate(source.rows(None), 1) if number % 20_000 == 0]
    # Files are read in blocks, so the share is ahead by one at most.
    assert all(now >= number / 4 - 0.1 for number, now in enumerate(found, 1))
    assert found[0] < found[-1] or name == "a.jsonl.gz"
    assert found[-1] == pytest.approx(1.0, abs=0.1)
    # The number of examples, where it is smaller; and a part reads all of its source.
    first = locate(str(tmp_path / name), num_examples=100)
    assert ShareRead(first)(50) == 0.5
    part = part_of_files({"train": str(tmp_path / name)}, "val", {"val": 0.1})
    share = ShareRead(part)
    number = sum(1 for _ in part.rows(None))
    assert share(number) == pytest.approx(1.0, abs=0.1)


def chunks(first: int = 0) -> Iterator[Chunk]:
    return (Chunk([{}] * 1000, number) for number in range(first + 1000, 41_000, 1000))


def shown_text(first: int, terminal: bool) -> str:
    """With a clock that moves a second per chunk."""
    now = iter(range(1000))
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    kept = list(shown(chunks(first), "train.lm", lambda n: n / 40_000, first, console, lambda: float(next(now))))
    assert len(kept) == (40_000 - first) // 1000
    return output.getvalue()


def test_a_line_from_time_to_time() -> None:
    assert shown_text(0, False).splitlines() == [
        "train.lm: 2,000 rows prepared, 1,000 rows/s, 5%, 38 s left",
        "train.lm: 12,000 rows prepared, 1,000 rows/s, 30%, 28 s left",
        "train.lm: 22,000 rows prepared, 1,000 rows/s, 55%, 18 s left",
        "train.lm: 32,000 rows prepared, 1,000 rows/s, 80%, 8 s left",
    ]
    # What an earlier process prepared says nothing about the rate.
    assert shown_text(30_000, False).splitlines() == [
        "train.lm: continuing after 30,000 rows that an earlier process prepared.",
        "train.lm: 32,000 rows prepared, 1,000 rows/s, 80%, 8 s left",
    ]


def test_a_bar_in_a_terminal() -> None:
    text = shown_text(0, True)
    assert "rows prepared, 1,000 rows/s" in text
    assert "left" in text
    assert "train.lm" in text


def test_little_data_show_nothing() -> None:
    output = io.StringIO()
    list(shown(chunks(), "a", lambda _: None, 0, Console(file=output), lambda: 0.0))
    assert output.getvalue() == ""

"""The rows of a local file, each with the place where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from xlm.errors import DataError
from xlm.utils.text_files import Row, name_of_kind, read_json, read_json_lines, read_lines, read_table

ROWS_AT_ONCE = 1000


def rows_of_file(path: Path) -> Iterator[Row]:
    """The rows of a file, by its ending.

    Raises:
        DataError: the file is damaged, or a row is no object; names file and row.
    """
    try:
        yield from _READERS[path.suffix](path)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {reason}") from error


def _text(path: Path) -> Iterator[Row]:
    return (Row({"text": line.text}, line.where) for line in read_lines(path))


def _json_lines(path: Path) -> Iterator[Row]:
    for row in read_json_lines(path):
        yield _object(row)


def _json(path: Path) -> Iterator[Row]:
    """A list of objects, or an object with one list of them."""
    loaded = read_json(path)
    if isinstance(loaded, dict):
        lists = [value for value in loaded.values() if isinstance(value, list)]
        loaded = lists[0] if len(lists) == 1 else None
    if not isinstance(loaded, list):
        raise DataError(f"{path} holds no list of objects; one object per line needs the ending .jsonl.")
    return (_object(row) for row in _numbered(path, loaded))


def _object(row: Row) -> Row:
    if not isinstance(row.value, dict):
        raise DataError(f'{row.where} is {name_of_kind(row.value)}, not an object such as {{"text": "…"}}.')
    return row


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    batches = parquet.ParquetFile(path).iter_batches(batch_size=ROWS_AT_ONCE)
    return _numbered(path, (row for batch in batches for row in batch.to_pylist()))


def _arrow(path: Path) -> Iterator[Row]:
    """Arrow's file format, or the stream format that `datasets` writes."""
    source = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    return _numbered(path, (row for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE) for row in batch.to_pylist()))


def _numbered(path: Path, values: Iterable[Any]) -> Iterator[Row]:
    return (Row(value, f"{path}, row {number}") for number, value in enumerate(values, 1))


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": read_table,
    ".tsv": lambda path: read_table(path, "\t"),
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _text,
}
FILE_TYPES = tuple(_READERS)

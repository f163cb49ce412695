"""The rows of data files, read by their endings: text, CSV, JSON, Parquet and Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from xlm.data.selection import AS_USUAL, Reading
from xlm.errors import DataError, as_line
from xlm.utils.text_files import (
    COMPRESSED,
    AmountRead,
    Row,
    name_of_kind,
    read_json,
    read_json_lines,
    read_lines,
    read_table,
)

ROWS_AT_ONCE = 1000


def rows_of_file(path: Path, reading: Reading = AS_USUAL) -> Iterator[Row]:
    """The rows of a file, by its ending.

    Raises:
        DataError: the file is damaged, or a row is not an object; the message names file and row.
    """
    with damage_as_errors(path):
        yield from _READERS[type_of_file(path)](path, reading)


@contextmanager
def damage_as_errors(path: Path) -> Iterator[None]:
    """DataError for what Arrow and the system say of a file that cannot be read."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = as_line(str(error).strip().split("\n")[0])
        raise DataError(f"{path} cannot be read as {type_of_file(path)[1:]}: {reason}") from error


def type_of_file(path: Path) -> str:
    """The ending that says what a file holds: `.jsonl` for `a.jsonl` and `a.jsonl.gz`."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def _text(path: Path, reading: Reading) -> Iterator[Row]:
    return (Row({"text": line.text}, line.where) for line in read_lines(path, encoding=reading.encoding))


def _comma_separated(path: Path, reading: Reading) -> Iterator[Row]:
    return read_table(path, reading.delimiter or ",", reading.encoding)


def _tab_separated(path: Path, reading: Reading) -> Iterator[Row]:
    return read_table(path, reading.delimiter or "\t", reading.encoding)


def _json_lines(path: Path, reading: Reading) -> Iterator[Row]:
    for row in read_json_lines(path, encoding=reading.encoding):
        yield _object(row)


def _json(path: Path, reading: Reading) -> Iterator[Row]:
    """A list of objects, or an object that contains one list of them."""
    loaded = read_json(path, reading.encoding)
    if isinstance(loaded, dict):
        lists = [value for value in loaded.values() if isinstance(value, list)]
        loaded = lists[0] if len(lists) == 1 else None
    if not isinstance(loaded, list):
        raise DataError(f"{path} does not contain a list of objects. For one object per line, use the suffix .jsonl.")
    return (_object(row) for row in _numbered(path, loaded))


def _object(row: Row) -> Row:
    if not isinstance(row.value, dict):
        raise DataError(f'{row.where} is {name_of_kind(row.value)}, not an object such as {{"text": "…"}}.')
    return row


def _parquet(path: Path, reading: Reading) -> Iterator[Row]:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    return _rows_of_batches(path, file.iter_batches(batch_size=ROWS_AT_ONCE), file.metadata.num_rows)


def _arrow(path: Path, reading: Reading) -> Iterator[Row]:
    """Arrow's file format, or the stream format that `datasets` writes."""
    source = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    return _rows_of_batches(path, table.to_batches(max_chunksize=ROWS_AT_ONCE), table.num_rows)


def _rows_of_batches(path: Path, batches: Iterable[pa.RecordBatch], num_rows: int) -> Iterator[Row]:
    bytes_per_row = path.stat().st_size / max(num_rows, 1)

    def lists() -> Iterator[list[Any]]:
        for batch in batches:
            yield sound_rows(batch)
            AmountRead.num_bytes += batch.num_rows * bytes_per_row

    return _numbered(path, chain.from_iterable(lists()))


def sound_rows(batch: pa.RecordBatch | pa.Table) -> list[Any]:
    """The rows of a batch that was mapped from a file; ArrowInvalid if the file is damaged.

    Arrow doesn't check offsets and lengths itself, and would read outside the file, which ends the process.
    """
    batch.validate(full=True)
    rows: list[Any] = batch.to_pylist()
    return rows


def _numbered(path: Path, values: Iterable[Any]) -> Iterator[Row]:
    return (Row(value, f"{path}, row {number}") for number, value in enumerate(values, 1))


_READERS: dict[str, Callable[[Path, Reading], Iterator[Row]]] = {
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _text,
}


FILE_TYPES = tuple(_READERS)


_NOT_UNPACKED = (".parquet", ".arrow")  # which compress their columns themselves


def check_type(path: Path) -> None:
    """DataError for a file whose ending is not known."""
    kind, is_packed = type_of_file(path), path.suffix in COMPRESSED
    if kind not in FILE_TYPES or (is_packed and kind in _NOT_UNPACKED):
        packed = f", also with {', '.join(COMPRESSED)} for text"
        raise DataError(f"{path} is not of a known type: {', '.join(FILE_TYPES)}{packed}.")


def rows_of_files(files: Iterable[Path], reading: Reading) -> Iterator[Row]:
    """The rows of several files, one after the other."""
    return chain.from_iterable(rows_of_file(path, reading) for path in files)

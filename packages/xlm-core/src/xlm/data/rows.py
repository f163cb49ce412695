"""Examples by index: rows of memory-mapped Arrow files or of a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xlm.errors import DataError

Ints = npt.NDArray[np.int64]

_ROWS_PER_FILE = 50_000
_ROWS_PER_CHUNK = 1000


class Rows(Protocol):
    """Map-style examples; `fetch` returns fresh dicts that the caller may change."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...

    def lengths(self, column: str) -> Ints | None:
        """The number of items in `column` of every row, without fetching rows; None without such a column."""
        ...


class ListRows:
    """Examples in memory."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [dict(self._rows[i]) for i in indices]

    def lengths(self, column: str) -> Ints | None:
        if not self._rows or column not in self._rows[0]:
            return None
        return np.fromiter((len(row[column]) for row in self._rows), dtype=np.int64, count=len(self._rows))


class SubsetRows:
    """A selection of rows, in the order of `indices`."""

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self._rows = rows
        self._indices = list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self._rows.fetch([self._indices[i] for i in indices])

    def lengths(self, column: str) -> Ints | None:
        found = self._rows.lengths(column)
        return None if found is None else found[self._indices]


class ArrowRows:
    """Rows of Arrow files, memory-mapped; columns of integer lists are read without conversion by Arrow.

    Pickled as the list of files, which workers map again.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._open()

    def _open(self) -> None:
        self._shards = [_Shard(path) for path in self._files]
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": self._files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def column_names(self) -> list[str]:
        return list(self._shards[0].columns) if self._shards else []

    def longer_than(self, column: str, num_items: int) -> tuple[Ints, Ints]:
        """The indices of rows whose list in `column` has more than `limit` items, in order, and their lengths."""
        rows, lengths = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for shard, end in zip(self._shards, self._ends.tolist(), strict=True):
            found = shard.columns[column].lengths()
            places = np.flatnonzero(found > num_items)
            rows.append(places + end - len(shard))
            lengths.append(found[places])
        return np.concatenate(rows), np.concatenate(lengths)

    def lengths(self, column: str) -> Ints | None:
        """The lengths of the lists in `column`, from the offsets that Arrow stores; None without such a column."""
        if column not in self.column_names:
            return None
        return np.concatenate([shard.columns[column].lengths() for shard in self._shards])

    def num_empty(self, column: str) -> int:
        """The number of rows with an empty list in `column`; 0 without such a column."""
        columns = [shard.columns[column] for shard in self._shards if column in shard.columns]
        return sum(int((found.lengths() == 0).sum()) for found in columns)

    def digest(self) -> str:
        """A hash of the names and values of all columns, independent of how they are stored."""
        digest = blake2b(digest_size=16)
        for shard in self._shards:
            for name, column in shard.columns.items():
                digest.update(f"{name} {len(shard)}\n".encode())
                column.add_to(digest)
        return digest.hexdigest()

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Fresh dicts for `indices`, in their order; IndexError beyond the end."""
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"Rows {wanted.min()} to {wanted.max()} of {len(self)}.")
        if len(self._shards) == 1:
            return self._shards[0].fetch(wanted)
        found: list[Any] = [None] * len(wanted)
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        for shard in np.unique(shard_of).tolist():
            places = np.flatnonzero(shard_of == shard)
            start = self._ends[shard - 1] if shard else 0
            for place, row in zip(places.tolist(), self._shards[shard].fetch(wanted[places] - start), strict=True):
                found[place] = row
        return found


class _Shard:
    """One file, read as one record batch."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        self._num_rows = batch.num_rows
        self.columns = dict(zip(batch.schema.names, map(_column, batch.columns), strict=True))

    def __len__(self) -> int:
        return self._num_rows

    def fetch(self, indices: Ints) -> list[dict[str, Any]]:
        names = list(self.columns)
        values = zip(*(column.take(indices) for column in self.columns.values()), strict=True)
        return [dict(zip(names, row, strict=True)) for row in values]


class _Column(Protocol):
    def take(self, indices: Ints) -> list[Any]: ...

    def lengths(self) -> Ints: ...

    def add_to(self, digest: blake2b) -> None: ...


class _IntLists:
    """A column of integer lists, as the two flat arrays that Arrow stores."""

    def __init__(self, array: pa.ListArray) -> None:
        self._offsets = array.offsets.to_numpy()
        self._values = array.values.to_numpy()

    def take(self, indices: Ints) -> list[list[int]]:
        starts, ends = self._offsets[indices].tolist(), self._offsets[indices + 1].tolist()
        return [self._values[start:end].tolist() for start, end in zip(starts, ends, strict=True)]

    def lengths(self) -> Ints:
        return np.diff(self._offsets).astype(np.int64)

    def add_to(self, digest: blake2b) -> None:
        digest.update(self.lengths().tobytes())
        digest.update(self._values[self._offsets[0] : self._offsets[-1]].astype(np.int64).tobytes())


class _AnyColumn:
    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def lengths(self) -> Ints:
        """The lengths of the lists; -1 for null."""
        if not pa.types.is_list(self._array.type):
            return np.full(len(self._array), -1, dtype=np.int64)
        found = self._array.value_lengths().fill_null(-1)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)

    def add_to(self, digest: blake2b) -> None:
        for start in range(0, len(self._array), _ROWS_PER_CHUNK):
            digest.update(repr(self._array.slice(start, _ROWS_PER_CHUNK).to_pylist()).encode())

    def take(self, indices: Ints) -> list[Any]:
        return [self._array[i].as_py() for i in indices.tolist()]


def _column(array: pa.Array) -> _Column:
    is_int_list = pa.types.is_list(array.type) and pa.types.is_integer(array.type.value_type)
    if is_int_list and array.null_count == 0 and array.values.null_count == 0:
        return _IntLists(array)
    return _AnyColumn(array)


def write_rows(folder: Path, rows: Iterable[dict[str, Any]]) -> list[Path]:
    """Write `rows` to Arrow files in `folder`; returns the files in order. All rows need the same columns."""
    files: list[Path] = []
    chunks = _chunks(rows)
    while tables := list(islice(chunks, _ROWS_PER_FILE // _ROWS_PER_CHUNK)):
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"A column has values of different kinds in different examples: {error}") from error
        path = folder / f"rows-{len(files):05d}.arrow"
        _write_table(path, _narrowed(table))
        files.append(path)
    return files


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    iterator = iter(rows)
    columns: list[str] | None = None
    done = 0
    while chunk := list(islice(iterator, _ROWS_PER_CHUNK)):
        columns = list(chunk[0]) if columns is None else columns
        for row in chunk:
            if row.keys() != set(columns):
                raise _differing(list(row), columns)
        yield pa.table({name: _array([row[name] for row in chunk], name, done) for name in columns})
        done += len(chunk)


def _array(values: list[Any], column: str, before: int) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        first = next(n for n in range(1, len(values) + 1) if not _has_array(values[:n]))
        raise DataError(
            f"Column {column!r} of prepared example {before + first} cannot be stored: {error}\n"
            "All values of a column must be of one kind. Set columns_to_keep to drop a column that is not needed."
        ) from error


def _has_array(values: list[Any]) -> bool:
    try:
        pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return False
    return True


def _differing(found: list[str], first: list[str]) -> DataError:
    return DataError(f"All examples need the same columns; one has {', '.join(found)}, the first {', '.join(first)}.")


def _narrowed(table: pa.Table) -> pa.Table:
    """Integer lists as int32 if every value fits, which halves the size of a token cache."""
    fields = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.type == pa.list_(pa.int64()) and _fits_int32(column):
            field = pa.field(field.name, pa.list_(pa.int32()))
        fields.append(field)
    return table.cast(pa.schema(fields))


def _fits_int32(column: pa.ChunkedArray) -> bool:
    limits = np.iinfo(np.int32)
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            return False
    return True


def _write_table(path: Path, table: pa.Table) -> None:
    batch = table.combine_chunks().to_batches(max_chunksize=max(1, table.num_rows))[0]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)

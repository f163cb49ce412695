"""Examples by index: rows of memory-mapped Arrow files or of a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xlm.errors import DataError, as_line

Ints = npt.NDArray[np.int64]

_ROWS_PER_FILE = 50_000
_ROWS_PER_CHUNK = 1000
# A file of long texts is complete before it fills the memory.
_BYTES_PER_FILE = 2**28
_SHOWN = 200  # characters of the names of columns in a message


class ColumnError(DataError):
    """Examples whose columns differ, or whose values cannot be stored together."""


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
        lengths = [len(shard) for shard in self._shards]
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._columns = [[shard.columns[name] for shard in self._shards] for name in self.column_names]

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

    def num_items(self, column: str) -> tuple[int, int]:
        """The number of items in all lists of `column` together, and in the longest list; 0 without such a column."""
        lengths = [shard.columns[column].lengths() for shard in self._shards if column in shard.columns]
        found = [(int(each.clip(0).sum()), int(each.max())) for each in lengths if len(each)]
        return sum(total for total, _ in found), max((longest for _, longest in found), default=0)

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
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        local = wanted - self._starts[shard_of]
        if wanted.size and shard_of[0] == shard_of[-1] and (shard_of == shard_of[0]).all():
            return self._shards[shard_of[0]].fetch(local)
        names = self.column_names
        # Row by row: the rows of a shuffled batch are from nearly as many files, each of which costs more than a row.
        places = list(zip(shard_of.tolist(), local.tolist(), strict=True))
        values = [[columns[shard].item(row) for shard, row in places] for columns in self._columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


class _Shard:
    """One file, read as one record batch."""

    def __init__(self, path: Path) -> None:
        batch = _open(path)
        self._num_rows = batch.num_rows
        self.columns = dict(zip(batch.schema.names, map(_column, batch.columns), strict=True))

    def __len__(self) -> int:
        return self._num_rows

    def fetch(self, indices: Ints) -> list[dict[str, Any]]:
        names = list(self.columns)
        values = zip(*(column.take(indices) for column in self.columns.values()), strict=True)
        return [dict(zip(names, row, strict=True)) for row in values]


def _open(path: Path) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(0)


class _Column(Protocol):
    def take(self, indices: Ints) -> list[Any]: ...

    def item(self, index: int) -> Any: ...

    def lengths(self) -> Ints: ...

    def add_to(self, digest: blake2b) -> None: ...


def _numbers(array: pa.Array) -> Any:
    """The memory of integers without nulls, as numpy's; Arrow's `to_numpy` imports pandas, half a second."""
    dtype = np.dtype(str(array.type))
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.empty(0, dtype=dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)


class _IntLists:
    """A column of integer lists, as the two flat arrays that Arrow stores."""

    def __init__(self, array: pa.ListArray) -> None:
        self._offsets = _numbers(array.offsets)
        self._values = _numbers(array.values)
        # Whose items are Python's integers at once.
        self._places = memoryview(self._offsets)

    def take(self, indices: Ints) -> list[list[int]]:
        starts, ends = self._offsets[indices].tolist(), self._offsets[indices + 1].tolist()
        return [self._values[start:end].tolist() for start, end in zip(starts, ends, strict=True)]

    def item(self, index: int) -> list[int]:
        return cast(list[int], self._values[self._places[index] : self._places[index + 1]].tolist())

    def lengths(self) -> Ints:
        return np.diff(self._offsets).astype(np.int64)

    def add_to(self, digest: blake2b) -> None:
        digest.update(self.lengths().tobytes())
        digest.update(self._values[self._offsets[0] : self._offsets[-1]].astype(np.int64).tobytes())


class _Ints:
    """A column of integers."""

    def __init__(self, array: pa.Array) -> None:
        self._values = _numbers(array)
        self._items = memoryview(self._values)

    def take(self, indices: Ints) -> list[int]:
        return cast(list[int], self._values[indices].tolist())

    def item(self, index: int) -> int:
        return self._items[index]

    def lengths(self) -> Ints:
        return np.full(len(self._values), -1, dtype=np.int64)

    def add_to(self, digest: blake2b) -> None:
        digest.update(self._values.astype(np.int64).tobytes())


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

    def item(self, index: int) -> Any:
        return self._array[index].as_py()


def _column(array: pa.Array) -> _Column:
    is_int_list = pa.types.is_list(array.type) and pa.types.is_integer(array.type.value_type)
    if is_int_list and array.null_count == 0 and array.values.null_count == 0:
        return _IntLists(array)
    if pa.types.is_signed_integer(array.type) and array.null_count == 0:
        return _Ints(array)
    return _AnyColumn(array)


class Chunk(NamedTuple):
    """Consecutive examples, made of the rows of a source up to `num_read`."""

    rows: list[dict[str, Any]]
    num_read: int


class Shard(NamedTuple):
    """A complete file of examples, made of the rows of a source up to `num_read`."""

    path: Path
    num_rows: int
    num_read: int


def chunks_of(rows: Iterable[dict[str, Any]]) -> Iterator[Chunk]:
    """Rows that are examples already, in chunks."""
    iterator, num_read = iter(rows), 0
    while chunk := list(islice(iterator, _ROWS_PER_CHUNK)):
        num_read += len(chunk)
        yield Chunk(chunk, num_read)


def write_rows(folder: Path, rows: Iterable[dict[str, Any]]) -> list[Path]:
    """Write `rows` to Arrow files in `folder`; returns the files in order. All rows need the same columns."""
    return [shard.path for shard in write_shards(folder, chunks_of(rows))]


def write_shards(folder: Path, chunks: Iterable[Chunk], done: Sequence[Shard] = ()) -> Iterator[Shard]:
    """Write chunks to Arrow files in `folder`, after the files `done`; a file is yielded when it is complete.

    A file ends with a chunk, so the files don't depend on where an earlier process stopped.
    """
    number, before = len(done), sum(shard.num_rows for shard in done)
    tables: list[pa.Table] = []
    columns = _open(done[0].path).schema.names if done else None
    num_rows = num_read = 0

    def written() -> Shard:
        path = folder / f"rows-{number:05d}.arrow"
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise ColumnError(f"A column has values of different kinds in different examples: {error}") from error
        _write_table(path, _narrowed(table))
        return Shard(path, num_rows, num_read)

    for chunk in chunks:
        num_read = chunk.num_read
        if not chunk.rows:
            continue
        columns = list(chunk.rows[0]) if columns is None else columns
        tables.append(_table(chunk.rows, columns, before + num_rows))
        num_rows += len(chunk.rows)
        if num_rows >= _ROWS_PER_FILE or sum(table.nbytes for table in tables) >= _BYTES_PER_FILE:
            yield written()
            number, before, num_rows, tables = number + 1, before + num_rows, 0, []
    if tables:
        yield written()


def _table(rows: list[dict[str, Any]], columns: list[str], before: int) -> pa.Table:
    names = set(columns)
    for row in rows:
        if row.keys() != names:
            raise _differing(list(row), columns)
    return pa.table({name: _array([row[name] for row in rows], name, before) for name in columns})


def _array(values: list[Any], column: str, before: int) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        first = next(n for n in range(1, len(values) + 1) if not _has_array(values[:n]))
        raise ColumnError(
            f"Column {column!r} of prepared example {before + first} cannot be stored: {as_line(error)}\n"
            "All values of a column must be of one kind. Set columns_to_keep to drop a column that is not needed."
        ) from error


def _has_array(values: list[Any]) -> bool:
    try:
        pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return False
    return True


def _differing(found: list[str], first: list[str]) -> ColumnError:
    names = [as_line(", ".join(columns))[:_SHOWN] for columns in (found, first)]
    return ColumnError(f"All examples need the same columns; one has {names[0]}, the first {names[1]}.")


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

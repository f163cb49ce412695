"""Streams: raw rows read in pieces while a run trains, shuffled, and continued from any place.

The pieces of a source are byte ranges of text files, row groups of Parquet files, ranges of saved data sets, shards on
the hub; a source that can only be read from its start is one piece. Every epoch deals the pieces, in a new order, to
lanes. A lane reads its pieces one after the other, and shuffles windows of consecutive examples. So the example at a
position of a lane is a pure function of the seed, and reading can start again at any window.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from xlm.data.file_rows import ROWS_AT_ONCE, damage_as_errors, sound_rows, type_of_file
from xlm.data.sources import (
    FileSource,
    FilesSource,
    FolderSource,
    HeldOutPart,
    HubSource,
    SavedSource,
    Source,
    damage_of_folder_as_errors,
)
from xlm.errors import DataError
from xlm.utils.text_files import can_be_split, json_value, line_number, lines_between, name_of_kind

# Small enough that a window of a few hundred texts has several pieces, large enough that seeking costs nothing.
_BYTES_PER_PIECE = 2**18
_MOST_PIECES_PER_FILE = 2**15
_ROWS_PER_PIECE = 1000
# Divisible by the usual numbers of processes and workers, so that each lane is read by one worker only.
_MOST_LANES = 16
_PIECES_PER_LANE = 4
# Epochs of a lane without any example after which it is an error.
_MOST_EMPTY = 100
# 2^64 · (√5 − 1)/2: gives the parts of one row numbers far apart.
_ODD = 0x9E3779B97F4A7C15

Raw = dict[str, Any]


class Piece(Protocol):
    """Consecutive raw rows of a source, which can be read on their own; picklable and cheap."""

    def rows(self, start: int, tokenizer: Any) -> Iterator[Raw]:
        """The rows from number `start` of the piece."""
        ...

    def where(self, number: int) -> str:
        """The place of a row, for messages."""
        ...


@dataclass(frozen=True)
class Lines:
    """The lines of a text file or of JSON lines that begin in a range of bytes."""

    path: Path
    start: int
    end: int

    def rows(self, start: int, tokenizer: Any) -> Iterator[Raw]:
        lines = lines_between(self.path, self.start, self.end)
        if type_of_file(self.path) == ".txt":
            yield from ({"text": line} for line in islice(lines, start, None))
            return
        filled = (line for line in lines if line.strip())
        for number, line in enumerate(islice(filled, start, None), start):
            try:
                value = json_value(line, "")
            except DataError:
                value = json_value(line, self.where(number))  # the same error, with its place
            if not isinstance(value, dict):
                raise DataError(f"{self.where(number)} is {name_of_kind(value)}, not an object with columns.")
            yield value

    def where(self, number: int) -> str:
        first = 1 if self.start == 0 else line_number(self.path, self.start - 1) + 1
        if type_of_file(self.path) != ".txt":
            lines = enumerate(lines_between(self.path, self.start, self.end))
            filled = (place for place, line in lines if line.strip())
            number = next(islice(filled, number, None), number)
        return f"{self.path}, line {first + number}"


@dataclass(frozen=True)
class RowGroup:
    """One row group of a Parquet file; `before` is the number of rows before it."""

    path: Path
    group: int
    before: int

    def rows(self, start: int, tokenizer: Any) -> Iterator[Raw]:
        from pyarrow import parquet

        # Without pre_buffer and with a buffer, pages are read one after the other instead of all at once.
        with (
            damage_as_errors(self.path),
            parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file,
        ):
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[self.group]):
                if start < batch.num_rows:
                    yield from sound_rows(batch.slice(start))
                start = max(0, start - batch.num_rows)

    def where(self, number: int) -> str:
        return f"{self.path}, row {self.before + number + 1}"


@dataclass(frozen=True)
class SavedRows:
    """A range of rows of a folder that `datasets` saved, which is memory-mapped."""

    source: SavedSource
    start: int
    end: int

    def rows(self, start: int, tokenizer: Any) -> Iterator[Raw]:
        with damage_of_folder_as_errors(self.source.folder):
            yield from sound_rows(_saved(self.source).with_format("arrow")[self.start + start : self.end])

    def where(self, number: int) -> str:
        return self.source.where(self.start + number)


@lru_cache(maxsize=8)
def _saved(source: SavedSource) -> Any:
    return source.dataset()


@dataclass(frozen=True)
class HubShard:
    """One of the `of` shards of a data set on the hub, read while it is downloaded."""

    source: HubSource
    shard: int
    of: int

    def rows(self, start: int, tokenizer: Any) -> Iterator[Raw]:
        rows = self.source.iterable().shard(num_shards=self.of, index=self.shard)
        yield from islice(rows, start, None)

    def where(self, number: int) -> str:
        return f"{self.source.name}, shard {self.shard + 1} of {self.of}, row {number + 1}"


@dataclass(frozen=True)
class Whole:
    """A source that is read from its start: compressed files, tables, generators. Skipping means reading."""

    source: Source

    def rows(self, start: int, tokenizer: Any) -> Iterator[Raw]:
        return islice(self.source.rows(tokenizer), start, None)

    def where(self, number: int) -> str:
        return self.source.where(number)


def pieces_of(source: Source) -> list[Piece]:
    """The pieces of a source, in order; only sizes and footers are read."""
    # Sources with options of their own are read by themselves, from the start.
    if isinstance(source, FileSource) and source == FileSource(source.path):
        return _pieces_of_file(source)
    if isinstance(source, FilesSource) and source == FilesSource(source.paths):
        return list(chain.from_iterable(_pieces_of_file(FileSource(path)) for path in source.paths))
    if isinstance(source, FolderSource) and source == FolderSource(source.folder, source.split):
        if (files := source.files()) is not None:
            return list(chain.from_iterable(_pieces_of_file(FileSource(path)) for path in files))
        return [Whole(source)]
    if isinstance(source, SavedSource):
        size = len(_saved(source))
        return [SavedRows(source, i, min(i + _ROWS_PER_PIECE, size)) for i in range(0, size, _ROWS_PER_PIECE)]
    if isinstance(source, HubSource):
        number = source.iterable().num_shards
        return [HubShard(source, shard, number) for shard in range(number)]
    return [Whole(source)]


def _pieces_of_file(source: FileSource) -> list[Piece]:
    path, kind = source.path, type_of_file(source.path)
    if kind == ".parquet":
        from pyarrow import parquet

        with damage_as_errors(path):
            data = parquet.ParquetFile(path).metadata
        sizes = [data.row_group(group).num_rows for group in range(data.num_row_groups)]
        before = accumulate(sizes, initial=0)
        return [RowGroup(path, group, rows) for group, rows in zip(range(len(sizes)), before, strict=False)]
    if kind in (".txt", ".jsonl") and can_be_split(path):
        size = os.path.getsize(path)
        step = max(_BYTES_PER_PIECE, size // _MOST_PIECES_PER_FILE)
        return [Lines(path, start, min(start + step, size)) for start in range(0, size, step)]
    return [Whole(source)]


class Example(NamedTuple):
    """An example of a stream: its columns, the epoch it is read in, and a number that no other example has."""

    columns: dict[str, Any]
    epoch: int
    row: int


class Mark(NamedTuple):
    """A place at which a lane can start to read: the first example of a window.

    `position` counts the lane's examples before it, `window` the windows of the epoch before it. The example is the
    one after `skip` examples of the group of raw rows that begins at row `row` of the lane's piece `piece`.
    """

    position: int = 0
    epoch: int = 0
    window: int = 0
    piece: int = 0
    row: int = 0
    skip: int = 0


Prepare = Callable[[list[Raw], Callable[[int], str]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Stream:
    """A source read in pieces.

    Args:
        source: the raw rows; a `HeldOutPart` of another source filters its rows.
        tokenizer: for generators.
        early: makes examples of a group of raw rows when they are read; `where(i)` is the place of row i of the group.
            None: one example per row, made by `late`.
        late: the same for one row, when its example is used, so that other processes don't do the same work.
        group_size: raw rows per group.
        buffer: examples that are shuffled with each other, in all lanes together; each has its part in a window.
    """

    source: Source
    tokenizer: Any
    early: Prepare | None
    late: Prepare | None
    group_size: int = 1
    buffer: int = 1
    seed: int = 0
    shuffle: bool = True

    @cached_property
    def pieces(self) -> list[Piece]:
        """The pieces of the source, in order."""
        return pieces_of(self.source.source if isinstance(self.source, HeldOutPart) else self.source)

    def is_used(self, row: Raw) -> bool:
        """Whether a row is one of this set, if parts are held out."""
        return self.source.has(row) if isinstance(self.source, HeldOutPart) else True

    def num_lanes(self) -> int:
        """A power of two, by the number of pieces; 1 without shuffling, which keeps the order of the source."""
        most = min(_MOST_LANES, len(self.pieces) // _PIECES_PER_LANE) if self.shuffle else 1
        return 1 << max(0, most.bit_length() - 1)

    @cached_property
    def window(self) -> int:
        """Consecutive examples of a lane that are shuffled."""
        return -(-self.buffer // self.num_lanes()) if self.shuffle else 1


class _Read(NamedTuple):
    """An example in a window; `raw` is made into columns when it is used, unless it is None."""

    mark: Mark  # of the example, with the position and window of an unknown place
    columns: dict[str, Any] | None
    raw: Raw | None
    row: int


class Lane:
    """The examples of one lane, by position: a new order of the lane's pieces in every epoch, without an end.

    Positions that increase are read once, whatever they skip; an earlier one is read again from the last mark before
    it.
    """

    def __init__(self, stream: Stream, number: int, num_lanes: int, marks: Sequence[Mark] = ()) -> None:
        self._stream, self._number, self._num_lanes = stream, number, num_lanes
        self._pieces = stream.pieces
        #: Where reading can start, in order. The first is the start of the data.
        self.marks = [Mark(), *(mark for mark in marks if mark.position)]
        self._windows: Iterator[tuple[Mark, list[_Read]]] | None = None
        self._start, self._window = Mark(), list[_Read]()
        self._order_of: tuple[int, int] | None = None  # position and size of the window of the permutation
        self._permutation = np.empty(0, np.int64)

    def fetch(self, positions: Sequence[int]) -> list[Example]:
        """The examples at these positions."""
        found = [self._at(position) for position in positions]
        late = self._stream.late
        raw = [each for each in found if each.columns is None]
        made: Iterator[Raw]
        if late is None or not raw:
            made = (dict(each.raw or {}) for each in raw)
        else:
            # Together, as tokenizers are faster with many texts.
            made = iter(late([each.raw or {} for each in raw], lambda index: self._where(raw[index].mark)))
        return [
            Example(next(made) if each.columns is None else dict(each.columns), each.mark.epoch, each.row)
            for each in found
        ]

    def _where(self, mark: Mark) -> str:
        return self._dealt(mark.epoch)[mark.piece][1].where(mark.row)

    def mark_before(self, position: int) -> Mark:
        """The last known place at or before a position from which reading can start."""
        return next(mark for mark in reversed(self.marks) if mark.position <= position)

    def _at(self, position: int) -> _Read:
        start = self._start.position
        if self._windows is None or position < start:
            self._windows = self._read(self.mark_before(position))
            self._start, self._window = next(self._windows)
        while position >= self._start.position + len(self._window):
            assert self._windows is not None
            self._start, self._window = next(self._windows)
            if self._start.position > self.marks[-1].position:
                self.marks.append(self._start)
                del self.marks[1:-8]
        window = self._window
        place = position - self._start.position
        if self._stream.shuffle:
            place = int(self._order(len(window))[place])
        return window[place]

    def _order(self, size: int) -> Any:
        key = (self._start.position, size)
        if self._order_of != key:
            seed = (self._stream.seed, self._number, self._start.epoch, self._start.window)
            self._order_of, self._permutation = key, np.random.default_rng(seed).permutation(size)
        return self._permutation

    def _dealt(self, epoch: int) -> list[tuple[int, Piece]]:
        """This lane's pieces of an epoch, with their numbers, in the order in which they are read."""
        numbers = np.arange(len(self._pieces))
        if self._stream.shuffle:
            numbers = np.random.default_rng((self._stream.seed, epoch)).permutation(numbers)
        return [(number, self._pieces[number]) for number in numbers[self._number :: self._num_lanes].tolist()]

    def _read(self, mark: Mark) -> Iterator[tuple[Mark, list[_Read]]]:
        """The windows from a mark on, each with its own mark."""
        num_empty = 0
        while True:
            found = self._examples(mark)
            while window := list(islice(found, self._stream.window)):
                num_empty = 0
                first = window[0].mark._replace(position=mark.position, window=mark.window)
                yield first, window
                mark = mark._replace(position=mark.position + len(window), window=mark.window + 1)
            num_empty += 1
            if num_empty == _MOST_EMPTY:
                raise DataError(f"{self._stream.source.name} has no examples, or preprocessing its rows yields none.")
            mark = Mark(mark.position, mark.epoch + 1)

    def _examples(self, mark: Mark) -> Iterator[_Read]:
        """The rest of the examples of an epoch."""
        stream, dealt = self._stream, self._dealt(mark.epoch)
        rows = (
            (piece, number, row)
            for piece in range(mark.piece, len(dealt))
            for number, row in enumerate(
                dealt[piece][1].rows(mark.row if piece == mark.piece else 0, stream.tokenizer),
                mark.row if piece == mark.piece else 0,
            )
            if stream.is_used(row)
        )
        skip = mark.skip
        while group := list(islice(rows, stream.group_size)):
            piece, number, raw = group[0]
            here = Mark(epoch=mark.epoch, piece=piece, row=number)
            identity = (dealt[piece][0] << 32) + number  # of the first row
            if stream.early is None:
                yield _Read(here, None, raw, identity)
                continue
            places = [(dealt[p][1], n) for p, n, _ in group]
            made = stream.early([row for _, _, row in group], lambda i, at=places: at[i][0].where(at[i][1]))  # type: ignore[misc]
            for part, columns in islice(enumerate(made), skip, None):
                yield _Read(here._replace(skip=part), columns, None, (identity + part * _ODD) % 2**63)
            skip = 0

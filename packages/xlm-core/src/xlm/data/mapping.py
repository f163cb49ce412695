"""Applies a function to rows: many rows at once where it has a form for that, in one process or in several."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from typing import Any

from xlm.errors import DataError

Row = dict[str, Any]
Function = Callable[[Any], Row]

_ROWS_AT_ONCE = 1000
# Fewer long texts at once, or their tokens would fill the memory.
_CHARACTERS_AT_ONCE = 4_000_000
# Rust's threads in the tokenizers library.
_THREADS = "TOKENIZERS_PARALLELISM"


class RowError(DataError):
    """An error in row `row`, counted from 0."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


class ProcessKilledError(DataError):
    """A process that prepared rows was killed; what is finished can be kept."""


@dataclass(frozen=True)
class RowFunction:
    """A function of one row, and its form for many rows, which gives the same results faster.

    `many` may raise any exception: the rows then go through `one`, which finds the row.
    """

    one: Function
    many: Callable[[list[Any]], list[Row]] | None = None

    def __call__(self, rows: list[Any], first: int) -> list[Row]:
        """The results for rows of which the first has the number `first`."""
        if self.many is not None:
            with suppress(Exception):  # the row is found below
                return self.many(rows)
        return list(self._each(rows, first))

    def _each(self, rows: list[Any], first: int) -> Iterator[Row]:
        for number, row in enumerate(rows, first):
            try:
                result = self.one(row)
            except RowError:
                raise
            except DataError as error:
                raise RowError(str(error), number) from error
            except Exception as error:
                error.add_note(f"In row {number + 1} of the data.")
                raise
            yield result


_function: RowFunction | None = None


def map_rows(function: Function, rows: Iterable[Any], num_workers: int | None) -> Iterator[Row]:
    """`map(function, rows)` in `num_workers` processes; as `map_chunks` otherwise."""
    return chain.from_iterable(map_chunks(RowFunction(function), rows, num_workers))


def map_chunks(
    function: RowFunction, rows: Iterable[Any], num_workers: int | None, first: int = 0
) -> Iterator[list[Row]]:
    """The results for consecutive rows, in lists, from `num_workers` processes; from this process for 0 or 1.

    Args:
        first: the number of the first row.

    Raises:
        ProcessKilledError: a process was killed.
        RowError: the function raised a DataError for a row. Any other exception gets a note with the row's number.
    """
    if num_workers is None or num_workers <= 1:
        _use_threads(True)
        try:
            for chunk in _chunks(rows):
                yield function(chunk, first)
                first += len(chunk)
        finally:
            _use_threads(False)
        return
    # Spawned, not forked: tokenizers and torch have started threads by now.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_set_function, initargs=(function,))
    pending: deque[Future[list[Row]]] = deque()
    try:
        for chunk in _chunks(rows):
            pending.append(pool.submit(_process, chunk, first))
            first += len(chunk)
            if len(pending) > 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ProcessKilledError(
            f"One of the {num_workers} processes that prepare data was killed, for instance for want of memory. "
            "Use fewer: num_dataset_workers=…"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_is_set_by_user: bool | None = None


def _use_threads(wanted: bool) -> None:
    """Let tokenizers use threads now or not, unless the user has decided it.

    Where they stay on, workers of a loader that are forked later complain on standard error.
    """
    global _is_set_by_user
    if _is_set_by_user is None:
        _is_set_by_user = _THREADS in os.environ
    if not _is_set_by_user:
        os.environ[_THREADS] = "true" if wanted else "false"


def _set_function(function: RowFunction) -> None:
    global _function
    _function = function
    _use_threads(False)  # there is a process for each core


def _process(rows: list[Any], first: int) -> list[Row]:
    assert _function is not None
    return _function(rows, first)


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    num_characters = 0
    for row in rows:
        chunk.append(row)
        if isinstance(row, dict):
            num_characters += sum([len(value) for value in row.values() if type(value) is str])
        if len(chunk) == _ROWS_AT_ONCE or num_characters >= _CHARACTERS_AT_ONCE:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk

"""Preprocessing in several processes, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from typing import Any

from xlm.errors import DataError

Function = Callable[[dict[str, Any]], dict[str, Any]]

_ROWS_AT_ONCE = 1000


class RowError(DataError):
    """What is wrong with the row of number `row`, from 0."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


_function: Function | None = None


def map_rows(function: Function, rows: Iterable[dict[str, Any]], num_workers: int | None) -> Iterator[dict[str, Any]]:
    """`map(function, rows)` in `num_workers` processes; in this one for none or one.

    Raises:
        RowError: the function refused a row with a DataError. Any other exception notes the number of the row.
    """
    if num_workers is None or num_workers <= 1:
        yield from _each(function, rows, 0)
        return
    iterator = iter(rows)
    # Started afresh rather than forked: tokenizers and torch have threads by now.
    with get_context("spawn").Pool(num_workers, initializer=_set_function, initargs=(function,)) as pool:
        pending: deque[Any] = deque()
        first = 0
        while chunk := list(islice(iterator, _ROWS_AT_ONCE)):
            pending.append(pool.apply_async(_process, (chunk, first)))
            first += len(chunk)
            if len(pending) > 2 * num_workers:
                yield from pending.popleft().get()
        while pending:
            yield from pending.popleft().get()


def _set_function(function: Function) -> None:
    global _function
    _function = function


def _process(rows: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    assert _function is not None
    return list(_each(_function, rows, first))


def _each(function: Function, rows: Iterable[dict[str, Any]], first: int) -> Iterator[dict[str, Any]]:
    """The results of `function`; what it raises has the row's number, counted from `first`."""
    for number, row in enumerate(rows, first):
        try:
            result = function(row)
        except RowError:
            raise
        except DataError as error:
            raise RowError(str(error), number) from error
        except Exception as error:
            error.add_note(f"In row {number + 1} of the data.")
            raise
        yield result

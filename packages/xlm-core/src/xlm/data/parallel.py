"""Preprocessing in several processes, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from typing import Any

Function = Callable[[dict[str, Any]], dict[str, Any]]

_ROWS_AT_ONCE = 1000
_function: Function | None = None


def map_rows(function: Function, rows: Iterable[dict[str, Any]], num_workers: int | None) -> Iterator[dict[str, Any]]:
    """`map(function, rows)` in `num_workers` processes; in this one for none or one."""
    if num_workers is None or num_workers <= 1:
        yield from map(function, rows)
        return
    iterator = iter(rows)
    # Started afresh rather than forked: tokenizers and torch have threads by now.
    with get_context("spawn").Pool(num_workers, initializer=_set_function, initargs=(function,)) as pool:
        pending: deque[Any] = deque()
        while chunk := list(islice(iterator, _ROWS_AT_ONCE)):
            pending.append(pool.apply_async(_process, (chunk,)))
            if len(pending) > 2 * num_workers:
                yield from pending.popleft().get()
        while pending:
            yield from pending.popleft().get()


def _set_function(function: Function) -> None:
    global _function
    _function = function


def _process(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert _function is not None
    return [_function(row) for row in rows]

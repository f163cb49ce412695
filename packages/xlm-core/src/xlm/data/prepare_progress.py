"""Shows how far the preparation of a data set is: a bar in a terminal, a line from time to time in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from xlm.data.rows import Chunk
from xlm.utils.consoles import plain_console
from xlm.utils.text import duration
from xlm.utils.text_files import AmountRead


class ShareRead:
    """The share of a source that has been read since this was made, from bytes of files or numbers of rows."""

    def __init__(self, source: Any) -> None:
        most = []
        while source is not None:
            most += [count] if isinstance(count := getattr(source, "num_examples", None), int) else []
            inner, source = source, getattr(source, "source", None)
        self._most = min(most, default=None)
        self._num_bytes = inner.num_bytes() if hasattr(inner, "num_bytes") else None
        self._before = AmountRead.num_bytes
        AmountRead.of_rows = None

    def __call__(self, num_read: int) -> float | None:
        """The share after `num_read` rows; None if the size of the source is unknown."""
        shares = [] if not self._most else [num_read / self._most]
        if self._num_bytes:
            shares.append((AmountRead.num_bytes - self._before) / self._num_bytes)
        elif AmountRead.of_rows:
            shares.append(AmountRead.num_rows / AmountRead.of_rows)
        return max(shares, default=None)


# Shorter preparations show nothing.
_QUIET_SECONDS = 2.0
_SECONDS_BETWEEN_LINES = 10.0


def shown(
    chunks: Iterable[Chunk],
    name: str,
    share: Callable[[int], float | None],
    first: int = 0,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Chunk]:
    """The chunks; rows, rows per second and the remaining time are shown on standard error if they take a while.

    Args:
        share: the share of the source that has been read, from the number of rows; None if it is unknown.
        first: the number of rows that an earlier process prepared.
    """
    console = console or plain_console(stderr=True, soft_wrap=True)
    display: _Bar | _Lines = (_Bar if console.is_terminal else _Lines)(console, name)
    begun = clock()
    if first:
        console.print(f"{name}: continuing after {first:,} rows that an earlier process prepared.", highlight=False)
    # Time and share are counted from the first chunk on: a source may read the finished rows again, without work.
    start: tuple[float, int, float] | None = None
    try:
        for chunk in chunks:
            yield chunk
            now, done = clock(), share(chunk.num_read)
            done = None if done is None else min(done, 1.0)
            if start is None:
                start = (now, chunk.num_read, done or 0.0)
            elif now - begun >= _QUIET_SECONDS and now > start[0]:
                rate = (chunk.num_read - start[1]) / (now - start[0])
                share_since = 0.0 if done is None else done - start[2]
                seconds = (now - start[0]) * (1 - done) / share_since if done is not None and share_since > 0 else None
                left = "" if seconds is None else f"{duration(seconds)} left"
                display.update(now, f"{chunk.num_read:,} rows prepared, {rate:,.0f} rows/s", done, left)
    finally:
        display.stop()


class _Lines:
    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name
        self._last: float | None = None

    def update(self, now: float, rows: str, done: float | None, left: str) -> None:
        if self._last is None or now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            parts = [f"{self._name}: {rows}", *([] if done is None else [f"{done:.0%}"]), *([left] if left else [])]
            self._console.print(", ".join(parts), highlight=False)

    def stop(self) -> None:
        """Nothing to do."""


class _Bar:
    def __init__(self, console: Console, name: str) -> None:
        texts = TextColumn("{task.fields[rows]}"), TextColumn("{task.fields[left]}")
        self._progress = Progress(
            TextColumn(name), BarColumn(bar_width=20), TaskProgressColumn(), *texts, console=console, transient=True
        )
        self._task = self._progress.add_task(name, total=None, rows="", left="")
        self._started = False

    def update(self, now: float, rows: str, done: float | None, left: str) -> None:
        if not self._started:
            self._progress.start()
            self._started = True
        self._progress.update(self._task, rows=rows, left=left)
        if done is not None:
            self._progress.update(self._task, total=1.0, completed=done)

    def stop(self) -> None:
        if self._started:
            self._progress.stop()

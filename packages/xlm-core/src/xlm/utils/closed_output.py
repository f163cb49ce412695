"""Output whose reader is gone: a pipe that `head` has closed, or a terminal whose window was closed."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# Called when standard output is found closed; with at least one of them, the rest of the output is discarded.
_watchers: list[Callable[[], None]] = []


class _Output(io.FileIO):
    """A file descriptor that can be written to until its reader is gone, and then no more.

    Writing to standard output then raises BrokenPipeError, or tells the watchers and continues without output.
    Standard error is always discarded: what would be reported there can be reported nowhere.
    """

    def __init__(self, descriptor: int, is_standard_output: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.is_standard_output = is_standard_output
        self._was_terminal = os.isatty(descriptor)

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # A terminal that is gone answers with an error of the disk.
            if not (error.errno == errno.EPIPE or (error.errno == errno.EIO and self._was_terminal)):
                raise
            if self.is_standard_output and not _watchers:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error
            discard(self.fileno())
            if self.is_standard_output:
                for watcher in _watchers:
                    watcher()
            return memoryview(data).nbytes


def discard(descriptor: int) -> None:
    """Let everything that is written to a descriptor from now on disappear."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
    finally:
        os.close(null)


@contextmanager
def watching_output(watcher: Callable[[], None]) -> Iterator[None]:
    """While entered, a closed standard output ends nothing: the rest is discarded, and `watcher` is called once."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Standard streams as UTF-8 that survive the end of their readers; streams of notebooks and tests stay."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(sys.stdout, True), _lasting(sys.stderr, False)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: TextIO, is_standard_output: bool) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        stream.flush()
        output = _Output(stream.fileno(), is_standard_output)
    except (OSError, ValueError):  # no descriptor, or a closed one
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding="utf-8" if is_standard_output else stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )

"""Ctrl-C and SIGTERM during training: the first asks, the second insists."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn


class GracefulSignals:
    """While entered, a first SIGINT or SIGTERM is only noted in `received`; a second one ends the process at once.

    Whoever trains looks at `received` after each step (see `LastCheckpoint`).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._release()
            raise KeyboardInterrupt
        self.received = signum
        print("\nStopping after this step; once more to stop at once.", file=sys.stderr, flush=True)

    def __enter__(self) -> GracefulSignals:
        for signum in self.SIGNALS:
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """While entered, SIGTERM ends the process as an exception does, so that what is held is given back."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)

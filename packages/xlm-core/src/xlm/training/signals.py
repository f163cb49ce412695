"""Ctrl-C and SIGTERM during training: the first asks, the second insists."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any


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

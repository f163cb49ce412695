"""All ranks of a run stop after the same step, although a signal reaches them at different times."""

from __future__ import annotations

import signal
from typing import Any

import torch
from torch import distributed

from xlm.training.guards import GracefulSignals

# Later ones win: a warning before the time limit also requeues the job.
_BY_PRIORITY = tuple(
    getattr(signal, name)
    for name in ("SIGPIPE", "SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


class AgreedSignal:
    """The signal that any rank has received. With several ranks, all of them learn of it one step later.

    After every step each rank starts a small reduction between CPUs, and reads the result of the one before. So no rank
    waits for the network or for its device.
    """

    def __init__(self, signals: GracefulSignals) -> None:
        self.signals = signals
        self._group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def after_step(self) -> int | None:
        """Call this after each training step on every rank; returns the signal to stop for, or None."""
        if not self._is_distributed():
            return self.signals.received
        if self._group is None:
            self._group = distributed.new_group(backend="gloo")
        found = 0
        if self._pending is not None:
            work, before = self._pending
            work.wait()
            found = int(before)
        received = self.signals.received
        flag = torch.tensor(0 if received is None else 1 + _BY_PRIORITY.index(signal.Signals(received)))
        work = distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (work, flag)
        return int(_BY_PRIORITY[found - 1]) if found else None

    def during_validation(self) -> int | None:
        """The signal in a run with one rank; several ranks may have different numbers of batches, and wait."""
        return None if self._is_distributed() else self.signals.received

    @staticmethod
    def _is_distributed() -> bool:
        return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1

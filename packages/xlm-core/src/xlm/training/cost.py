"""What a training run costs: CPU and wall seconds, throughput, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xlm.training.train_log import TrainLog

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class TrainingCost(Callback):
    """Clocks around fit, validations included; after a resume, of this start alone."""

    def __init__(self, train_log: TrainLog) -> None:
        self.train_log = train_log
        self._started: tuple[float, float] | None = None
        self._used: tuple[float, float] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._started = time.process_time(), time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._started is not None
        self._used = time.process_time() - self._started[0], time.perf_counter() - self._started[1]

    def as_dict(self, device: torch.device) -> dict[str, Any]:
        """`cpu_seconds` (threads of this process added up), `wall_seconds`, `tokens_per_second`, `peak_memory_mib`.

        Memory is that of the device, or, on a CPU, of the whole process.
        """
        cpu, wall = self._used or (0.0, 0.0)
        tokens_per_second = self.train_log.tokens_per_second
        return {
            "cpu_seconds": round(cpu, 1),
            "wall_seconds": round(wall, 1),
            "tokens_per_second": None if tokens_per_second is None else round(tokens_per_second, 1),
            "peak_memory_mib": round(peak_memory(device) / 2**20, 1),
        }


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on a CUDA device since its counter was reset, else resident in this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT

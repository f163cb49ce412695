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
    """Clocks around fit, validations included; what earlier starts of a run took up to their checkpoint counts too."""

    def __init__(self, train_log: TrainLog) -> None:
        self.train_log = train_log
        self._started: tuple[float, float] | None = None
        self._device = torch.device("cpu")
        # CPU and wall seconds before this start.
        self._earlier = (0.0, 0.0)
        # Bytes, of the starts before this one.
        self._earlier_peak = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = pl_module.device
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._started = time.process_time(), time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._earlier, self._started = self._seconds(), None

    def _seconds(self) -> tuple[float, float]:
        """CPU and wall seconds so far."""
        cpu, wall = self._earlier
        if self._started is None:
            return cpu, wall
        return cpu + time.process_time() - self._started[0], wall + time.perf_counter() - self._started[1]

    def state_dict(self) -> dict[str, Any]:
        cpu, wall = self._seconds()
        peak = max(self._earlier_peak, peak_memory(self._device))
        return {
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "throughput": self.train_log.totals,
            "peak_memory": peak,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = state_dict["cpu_seconds"], state_dict["wall_seconds"]
        self.train_log.totals = state_dict["throughput"]
        self._earlier_peak = state_dict["peak_memory"]

    def as_dict(self, device: torch.device) -> dict[str, Any]:
        """`cpu_seconds` (threads of this process added up), `wall_seconds`, `tokens_per_second`, `peak_memory_mib`.

        Memory is that of the device, or, on a CPU, of the whole process.
        """
        cpu, wall = self._seconds()
        tokens_per_second = self.train_log.tokens_per_second
        return {
            "cpu_seconds": round(cpu, 1),
            "wall_seconds": round(wall, 1),
            "tokens_per_second": None if tokens_per_second is None else round(tokens_per_second, 1),
            "peak_memory_mib": round(max(self._earlier_peak, peak_memory(device)) / 2**20, 1),
        }


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on a CUDA device since its counter was reset, else resident in this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT

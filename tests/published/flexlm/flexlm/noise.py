"""Schedules. Neither is of a class that anybody else knows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class FlexSchedule:
    """Share of masked tokens at time t: sin(pi t / 2) ** power. No module, no parameters, no base class."""

    __slots__ = ("eps", "power")

    def __init__(self, power: float = 1.0, eps: float = 1e-3):
        self.power = power
        self.eps = eps

    def sample_t(self, batch_size: int) -> Tensor:
        return torch.rand(batch_size) * (1 - self.eps) + self.eps

    def __call__(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2) ** self.power

    def time_of(self, share: Tensor) -> Tensor:
        return torch.asin(share.clamp(0, 1) ** (1 / self.power)) * 2 / math.pi


class RsqrtSchedule:
    """Linear warm-up, then 1/sqrt(step). Has what Lightning asks of a schedule, and is no LRScheduler."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup: int = 10, slowness: int = 100):
        self.optimizer = optimizer
        self.warmup = warmup
        self.slowness = slowness
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.num_steps = 0
        self._set()

    def _set(self) -> None:
        late = max(0, self.num_steps - self.warmup)
        factor = min(1.0, (self.num_steps + 1) / self.warmup) / math.sqrt(1 + late / self.slowness)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor

    def step(self, *args: Any) -> None:
        self.num_steps += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "base_lrs": self.base_lrs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_steps = state_dict["num_steps"]
        self.base_lrs = state_dict["base_lrs"]
        self._set()

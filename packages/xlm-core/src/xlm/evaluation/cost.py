"""What generation costs: network calls per sample and samples per second, beside whatever quality is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from xlm.utils.rank_zero import gathered

# Timings differ from run to run; they are told where a number is reported, not at every validation.
TIMED_STAGES = ("test",)


@dataclass
class _Sums:
    rows: int = 0
    calls: float = 0.0
    counted_rows: int = 0
    seconds: float = 0.0


class GenerationCost:
    """Sums over the predicted batches of a pass, by loader; on several ranks, over all of them.

    A forward pass counts for every row that was in it. A predictor tells through `network_calls`: one number for
    the whole batch, or (B,) numbers.
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def timed(
        self, name: str, num_rows: int, device: torch.device, predict: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Call `predict` for a batch of the loader `name`, count what it took, and return its predictions."""
        started = time.perf_counter()
        predictions = predict()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)  # or the clock would stop before the work is done
        sums = self._sums.setdefault(name, _Sums())
        sums.seconds += time.perf_counter() - started
        sums.rows += num_rows
        calls = predictions.get("network_calls")
        if calls is not None:
            per_row = torch.as_tensor(calls, dtype=torch.float64, device="cpu").expand(num_rows)
            sums.calls += float(per_row.sum())
            sums.counted_rows += num_rows
        return predictions

    def finish(self, stage: str) -> dict[str, float]:
        """`loader/network_calls` and, after a test, `loader/samples_per_second`; the same on every rank."""
        found, self._sums = self._sums, {}
        values: dict[str, float] = {}
        for name, sums in found.items():
            ranks = gathered(sums)
            counted = sum(part.counted_rows for part in ranks)
            if counted:
                values[f"{name}/network_calls"] = sum(part.calls for part in ranks) / counted
            # Ranks work side by side: the slowest one's time has passed.
            seconds = max(part.seconds for part in ranks)
            if stage in TIMED_STAGES and seconds > 0:
                values[f"{name}/samples_per_second"] = sum(part.rows for part in ranks) / seconds
        return values

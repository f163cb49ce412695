"""What generation costs: network calls per sample and samples per second, next to the measured quality."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from xlm.utils.rank_zero import all_gather_objects

# Timings vary from run to run, so they are reported after a test and not at every validation.
TIMED_STAGES = ("test",)


def calls_of_rows(predictions: Mapping[str, Any], num_rows: int) -> Tensor | None:
    """Network calls of each row (float64, on the CPU); None if the predictor doesn't count them.

    A forward pass counts for every row that was in it. A predictor reports them as `network_calls`: one number for
    the whole batch, or (B,) numbers.
    """
    calls = predictions.get("network_calls")
    return None if calls is None else torch.as_tensor(calls, dtype=torch.float64, device="cpu").expand(num_rows)


@contextmanager
def counting_calls(predictor: Any) -> Iterator[list[float | None]]:
    """Collects the network calls of every row that `predictor.predict` gets in this block, in order."""
    calls: list[float | None] = []
    predict, own = predictor.predict, predictor.__dict__.get("predict")

    @wraps(predict)
    def counted(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        predictions = predict(batch, *args, **kwargs)
        num_rows = len(predictions["ids"] if "ids" in predictions else predictions["text"])
        rows = calls_of_rows(predictions, num_rows)
        calls.extend([None] * num_rows if rows is None else rows.tolist())
        return predictions

    # Set on the instance, since `generate` calls `self.predict`.
    predictor.__dict__["predict"] = counted
    try:
        yield calls
    finally:
        del predictor.__dict__["predict"]
        if own is not None:
            predictor.__dict__["predict"] = own


@dataclass
class _Sums:
    rows: int = 0
    calls: float = 0.0
    squared_calls: float = 0.0
    counted_rows: int = 0
    seconds: float = 0.0


class GenerationCost:
    """Sums over the predicted batches of a pass, by loader, over all ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def timed(
        self, name: str, num_rows: int, device: torch.device, predict: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Call `predict` for a batch of the loader `name`, count its cost, and return its predictions."""
        started = time.perf_counter()
        predictions = predict()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)  # so that the measured time includes all queued work
        sums = self._sums.setdefault(name, _Sums())
        sums.seconds += time.perf_counter() - started
        sums.rows += num_rows
        per_row = calls_of_rows(predictions, num_rows)
        if per_row is not None:
            sums.calls += float(per_row.sum())
            sums.squared_calls += float(per_row.square().sum())
            sums.counted_rows += num_rows
        return predictions

    def errors(self) -> dict[str, tuple[int, float]]:
        """`loader/network_calls` → rows and standard error of the mean; the same on every rank."""
        found: dict[str, tuple[int, float]] = {}
        for name, sums in self._sums.items():
            ranks = all_gather_objects(sums)
            n, total = sum(part.counted_rows for part in ranks), sum(part.calls for part in ranks)
            if n > 1:
                spread = max(0.0, sum(part.squared_calls for part in ranks) - total * total / n)
                found[f"{name}/network_calls"] = n, math.sqrt(spread / (n - 1) / n)
        return found

    def finish(self, stage: str) -> dict[str, float]:
        """`loader/network_calls` and, after a test, `loader/samples_per_second`; the same on every rank."""
        found, self._sums = self._sums, {}
        values: dict[str, float] = {}
        for name, sums in found.items():
            ranks = all_gather_objects(sums)
            counted = sum(part.counted_rows for part in ranks)
            if counted:
                values[f"{name}/network_calls"] = sum(part.calls for part in ranks) / counted
            # Ranks run in parallel, so the slowest one determines the time.
            seconds = max(part.seconds for part in ranks)
            if stage in TIMED_STAGES and seconds > 0:
                values[f"{name}/samples_per_second"] = sum(part.rows for part in ranks) / seconds
        return values

"""A standard error and a number of examples for every metric of a pass, for the record of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from xlm.metrics import RatioMetric
from xlm.utils.rank_zero import gathered


class Estimates(Callback):
    """Reads each metric's standard error at the end of validation or test, before the harness resets the metrics.

    `errors`: name → groups and standard error over them. `counts`: `split/loader` → examples on all ranks.
    """

    def __init__(self) -> None:
        self.errors: dict[str, tuple[int, float]] = {}
        self.counts: dict[str, int] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(pl_module, "test")

    def _read(self, harness: Any, stage: str) -> None:
        for name in harness.dataloader_names.get(stage, {}).values():
            place = f"{stage}/{name}"
            self.counts[place] = sum(gathered(harness.counts(stage).get(place, 0)))
            for wrapper in harness.metrics_at(stage, name):
                if isinstance(wrapper.metric, RatioMetric):
                    self.errors[wrapper.full_name(place)] = wrapper.metric.estimate_error()
        for name, error in harness.generation_cost.errors().items():
            self.errors[f"{stage}/{name}"] = error

    def record(self, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """Name → value, standard error (None where it cannot be known), examples, and what the error is over.

        A metric that only knows the mean of each batch has an error over batches; all others over examples.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, value in metrics.items():
            n = self.counts.get("/".join(name.split("/")[:2]))
            groups, error = self.errors.get(name, (0, math.nan))
            over = None if math.isnan(error) else "examples" if n is not None and groups > n // 2 else "batches"
            found[name] = {"value": value, "se": None if math.isnan(error) else error, "n": n, "se_over": over}
        return found

"""Metrics of a whole pass: additional scalars of the loss outputs, and a standard error for every metric."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from numbers import Real
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from xlm.metrics import MetricWrapper, RatioMetric, TokenWeightedMean, output_mean
from xlm.training.interval import load_metric_counts, metric_counts
from xlm.utils.rank_zero import all_gather_objects

# Not scalars of their own: the loss is logged as a metric, the number of terms is its weight.
NOT_TRACKED = frozenset({"loss", "num_loss_terms"})


class TrackedScalar(MetricWrapper):
    """The mean of one scalar, weighted by `num_loss_terms`, or by rows if a loss doesn't give that number.

    A batch without the scalar doesn't count.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, TokenWeightedMean(), partial(output_mean, key=name))

    def update(
        self, batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **extra: Any
    ) -> None:
        """Count one batch, if it has the scalar."""
        if is_scalar(loss_dict.get(self.name)):
            super().update(batch, loss_dict, tokenizer, **extra)


class TrackedScalars:
    """The tracked scalars of every loader, by `stage/loader`.

    Args:
        left_out: names that are not logged at a loader, by `stage/loader`.
    """

    def __init__(self, left_out: Mapping[str, Collection[str]]) -> None:
        self._left_out = left_out
        self._metrics: dict[str, dict[str, TrackedScalar]] = {}

    def update(
        self, place: str, batch: Mapping[str, Any], outputs: Mapping[str, Any], known: Iterable[str] = ()
    ) -> None:
        """Count the scalars of one batch, except the names of `known` metrics."""
        names = {str(name) for name, value in outputs.items() if is_scalar(value)} - NOT_TRACKED - set(known)
        for name in names.difference(self._left_out.get(place, ())):
            self._metric(place, name, outputs["loss"].device).update(batch, outputs)

    def metrics_at(self, place: str, device: torch.device) -> list[MetricWrapper]:
        """The metrics of one loader, sorted by name: on every process, those that any process has.

        All processes compute metrics together, so all must have the same ones in the same order.
        """
        names = _of_all_processes(sorted(self._metrics.get(place, {})))
        return [self._metric(place, name, device) for name in names]

    def forget(self, stage: str) -> None:
        """Reset those of a stage's loaders."""
        for place, found in self._metrics.items():
            if place.split("/", 1)[0] == stage:
                for metric in found.values():
                    metric.reset()

    def state(self, stage: str) -> dict[str, dict[str, Any]]:
        """What this process has counted for a stage since the last reset, by `stage/loader` and name."""
        return {
            place: {name: metric_counts(tracked.metric) for name, tracked in found.items()}
            for place, found in self._metrics.items()
            if place.split("/", 1)[0] == stage
        }

    def load(self, state: Mapping[str, Mapping[str, Any]], device: torch.device) -> None:
        """Continue from a `state`."""
        for place, found in state.items():
            for name, counts in found.items():
                load_metric_counts(self._metric(place, name, device).metric, counts)

    def _metric(self, place: str, name: str, device: torch.device) -> TrackedScalar:
        found = self._metrics.setdefault(place, {})
        if name not in found:
            found[name] = TrackedScalar(name).to(device)
        return found[name]


def null_metrics(cfg: Mapping[str, Any]) -> dict[str, set[str]]:
    """The names of the metrics that are null in the config, by `stage/loader`; they are not logged."""
    return {
        f"{stage}/{loader}": {str(name) for name in metrics or {} if metrics[name] is None}
        for kind in ("reported", "diagnostic")
        for stage, loaders in (cfg.get(f"{kind}_metrics") or {}).items()
        for loader, metrics in (loaders or {}).items()
    }


def is_scalar(value: Any) -> bool:
    """Whether `value` is a real number or a real tensor without dimensions."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_complex()
    return isinstance(value, Real)


def _of_all_processes(names: list[str]) -> list[str]:
    everywhere = all_gather_objects(names)
    return names if len(everywhere) == 1 else sorted({name for found in everywhere for name in found})


class Estimates(Callback):
    """Reads each metric's standard error at the end of validation or test, before the harness resets the metrics.

    `errors`: name → groups and standard error over them. `counts`: `split/loader` → examples on all ranks. `values`:
    the newest validation. All are part of a checkpoint, since a resumed run may end without another validation.
    """

    def __init__(self) -> None:
        self.errors: dict[str, tuple[int, float]] = {}
        self.counts: dict[str, int] = {}
        self.values: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"errors": dict(self.errors), "counts": dict(self.counts), "values": dict(self.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.errors, self.counts = dict(state_dict["errors"]), dict(state_dict["counts"])
        self.values = dict(state_dict["values"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.values = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("train/")}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(pl_module, "test")

    def _read(self, harness: Any, stage: str) -> None:
        for name in harness.dataloader_names.get(stage, {}).values():
            place = f"{stage}/{name}"
            self.counts[place] = sum(all_gather_objects(harness.counts(stage).get(place, 0)))
            for wrapper in harness.metrics_at(stage, name):
                if isinstance(wrapper.metric, RatioMetric):
                    self.errors[wrapper.full_name(place)] = wrapper.metric.estimate_error()
        for name, error in {**harness.generation_cost.errors(), **harness.post_hoc.errors()}.items():
            self.errors[f"{stage}/{name}"] = error

    def record(self, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """Name → value, standard error (None if unknown), examples, and the units of the error.

        If a metric only knows the mean of each batch, its error is over batches; otherwise it is over examples.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, value in metrics.items():
            n = self.counts.get("/".join(name.split("/")[:2]))
            groups, error = self.errors.get(name, (0, math.nan))
            over = None if math.isnan(error) else "examples" if n is not None and groups > n // 2 else "batches"
            found[name] = {"value": value, "se": None if math.isnan(error) else error, "n": n, "se_over": over}
        return found

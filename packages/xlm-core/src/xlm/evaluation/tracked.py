"""The further scalars of a loss's outputs, logged beside its metrics without a line of configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, distributed

from xlm.metrics import MetricWrapper, TokenWeightedMean, output_mean

# Read by what they are for.
NOT_TRACKED = frozenset({"loss", "num_loss_terms"})


class TrackedScalar(MetricWrapper):
    """The mean of one scalar, weighted by `num_loss_terms`, or by rows where a loss doesn't say how many there are.

    A batch whose outputs lack the scalar doesn't count.
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
        left_out: names that are not to be logged at a loader, by `stage/loader`.
    """

    def __init__(self, left_out: Mapping[str, Collection[str]]) -> None:
        self._left_out = left_out
        self._metrics: dict[str, dict[str, TrackedScalar]] = {}

    def update(
        self, place: str, batch: Mapping[str, Any], outputs: Mapping[str, Any], known: Iterable[str] = ()
    ) -> None:
        """Count the scalars of one batch that are not the names of `known` metrics."""
        names = {str(name) for name, value in outputs.items() if is_scalar(value)} - NOT_TRACKED - set(known)
        for name in names.difference(self._left_out.get(place, ())):
            self._metric(place, name, outputs["loss"].device).update(batch, outputs)

    def metrics_at(self, place: str, device: torch.device) -> list[MetricWrapper]:
        """Those of one loader, sorted by name, and on all processes those that any process has.

        Metrics are computed by all processes together, so all must have the same ones in the same order.
        """
        names = _of_all_processes(sorted(self._metrics.get(place, {})))
        return [self._metric(place, name, device) for name in names]

    def forget(self, stage: str) -> None:
        """Start those of a stage's loaders anew."""
        for place, found in self._metrics.items():
            if place.split("/", 1)[0] == stage:
                for metric in found.values():
                    metric.reset()

    def _metric(self, place: str, name: str, device: torch.device) -> TrackedScalar:
        found = self._metrics.setdefault(place, {})
        if name not in found:
            found[name] = TrackedScalar(name).to(device)
        return found[name]


def null_metrics(cfg: Mapping[str, Any]) -> dict[str, set[str]]:
    """The names of the metrics that are null in the config, by `stage/loader`: nothing is logged under them."""
    return {
        f"{stage}/{loader}": {str(name) for name in metrics or {} if metrics[name] is None}
        for kind in ("reported", "diagnostic")
        for stage, loaders in (cfg.get(f"{kind}_metrics") or {}).items()
        for loader, metrics in (loaders or {}).items()
    }


def is_scalar(value: Any) -> bool:
    """Whether `value` is a number or a tensor without dimensions; complex ones are not."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_complex()
    return isinstance(value, Real)


def _of_all_processes(names: list[str]) -> list[str]:
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return names
    gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(gathered, names)
    return sorted({name for found in gathered for name in found})

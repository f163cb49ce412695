"""How good the samples of one setting of a sweep are: by the metrics of their loader, or as texts under a judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.evaluation.pareto import PERPLEXITY
from xlm.evaluation.text_quality.texts import WrittenText, written_texts
from xlm.harness import Harness
from xlm.jobs.judging import Judging, judge_of, loaders_of_texts
from xlm.jobs.session import Session
from xlm.metrics import MetricWrapper
from xlm.schemas import Sweep

Values = dict[str, tuple[float, float | None]]


class Scoring(Protocol):
    """Collects what one setting wrote; `quality` is the number that counts, `record` what the numbers depend on."""

    quality: str
    record: dict[str, Any]

    def add(self, batch: Mapping[str, Any], predictions: Mapping[str, Any], num_rows: int) -> None:
        """Count a batch."""

    def finish(self) -> Values:
        """Value and standard error by name, the quality first; forgets what was counted."""


def scoring_of(session: Session, harness: Harness, split: str, name: str, options: Sweep) -> Scoring:
    """By a judge where one is named, else by the loader's metrics.

    Raises:
        ConfigError: a loader without metrics and no judge, no such metric or judge, or both are named.
    """
    texts = [loader for loader in loaders_of_texts(session, split) if loader == name]
    judge, metric = judge_of(options, "sweep", texts, split), options.metric
    if judge is None:
        return ByMetrics(harness, _metrics(harness, split, name, metric, bool(texts)))
    if metric is not None:
        raise ConfigError(
            f"sweep.metric={metric} doesn't go with sweep.judge: texts are shown by perplexity and entropy, and all "
            "other numbers are in the tables.",
            key="sweep.metric",
        )
    return AsTexts(Judging.of(session, options, judge, harness.device))


class ByMetrics:
    """Each metric's value of every example; the first metric is the quality."""

    def __init__(self, harness: Harness, metrics: list[MetricWrapper]) -> None:
        self.quality = metrics[0].name
        self.record: dict[str, Any] = {}
        self._harness, self._metrics = harness, metrics
        self._values: dict[str, list[float]] = {metric.name: [] for metric in metrics}

    def add(self, batch: Mapping[str, Any], predictions: Mapping[str, Any], num_rows: int) -> None:
        for row in range(num_rows):
            one, its = _row(batch, row, num_rows), _row(predictions, row, num_rows)
            for metric in self._metrics:
                metric.reset()
                metric.update(one, its, self._harness.tokenizer)
                self._values[metric.name].append(float(metric.compute()))
                metric.reset()

    def finish(self) -> Values:
        found: Values = {name: _mean_and_error(values) for name, values in self._values.items()}
        self._values = {name: [] for name in self._values}
        return found


class AsTexts:
    """All texts of a setting together: a perplexity and what stands beside it."""

    def __init__(self, judging: Judging) -> None:
        judge = judging.judge
        self.quality = judge.named(PERPLEXITY) if judge else PERPLEXITY
        self.record: dict[str, Any] = {"text_quality": {"judge": judge.describe() if judge else None}}
        self._judging = judging
        self._texts: list[WrittenText] = []

    def add(self, batch: Mapping[str, Any], predictions: Mapping[str, Any], num_rows: int) -> None:
        self._texts += written_texts(predictions, self._judging.session.tokenizer)

    def finish(self) -> Values:
        found, told = self._judging.measure({"texts": self._texts})
        self.record, self._texts = {"text_quality": told}, []
        # A number that means nothing, as the perplexity of nothing but empty texts.
        return {
            name: (math.nan if estimate.value is None else estimate.value, estimate.se)
            for name, estimate in found["texts"].numbers.items()
        }


def _metrics(harness: Harness, split: str, name: str, chosen: str | None, is_of_texts: bool) -> list[MetricWrapper]:
    """The loader's metrics, the chosen one (default: the first) in front."""
    found = [metric for metric in harness.metrics_at(split, name) if metric.name != "steps_taken"]
    names = [metric.name for metric in found]
    if not found:
        hint = " A judge would: sweep.judge=…, a causal language model." if is_of_texts else ""
        raise ConfigError(f"The loader {split}/{name} has no metric, so nothing says how good a sample is.{hint}")
    if chosen is not None and chosen not in names:
        hint = did_you_mean(nearest_names(chosen, names, 1))
        raise ConfigError(f"{split}/{name} has no metric '{chosen}'; it has {', '.join(names)}. {hint}".rstrip())
    return sorted(found, key=lambda metric: metric.name != (chosen or names[0]))


def _row(values: Mapping[str, Any], row: int, B: int) -> dict[str, Any]:
    """One example of a batch or of its outputs."""
    return {
        key: value[row : row + 1]
        if (isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == B)
        or (isinstance(value, list | tuple) and len(value) == B)
        else value
        for key, value in values.items()
    }


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return mean, math.sqrt(variance / len(values))

"""Standard errors of metrics: as in statistics, and the same for any batches."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from xlm.evaluation.cost import GenerationCost, counting_calls
from xlm.evaluation.metrics import Estimates
from xlm.log_predictions import PostHocPasses
from xlm.metrics import ExactMatch, MetricWrapper, RatioMetric, TokenAccuracy, TokenWeightedMean

CPU = torch.device("cpu")


def rows(seed: int = 0, n: int = 300) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, truths, and how long each truth is."""
    generator = torch.Generator().manual_seed(seed)
    pred, target = (torch.randint(2, (n, 6), generator=generator) for _ in range(2))
    pred[: n // 2] = target[: n // 2]  # whole answers are right or wrong together
    return pred, target, torch.randint(1, 7, (n,), generator=generator)


def fed(metric: Any, batch_size: int) -> Any:
    for pred, target, length in zip(*(part.split(batch_size) for part in rows()), strict=True):
        metric.update(pred=pred, target=target, pred_length=length, target_length=length)
    return metric


def test_of_exact_match_it_is_binomial() -> None:
    metric = fed(ExactMatch(), 300)
    p = float(metric.compute())
    assert 0.5 < p < 0.9
    n, error = metric.estimate_error()
    assert n == 300
    assert error == pytest.approx(math.sqrt(p * (1 - p) / 299))


def test_of_token_accuracy_it_is_over_examples() -> None:
    """Tokens of one answer are no independent trials: a bootstrap over examples says how much."""
    pred, target, length = rows()
    there = torch.arange(6) < length[:, None]
    correct, total = ((pred == target) & there).sum(1).numpy(), there.sum(1).numpy()
    draws = np.random.default_rng(0).integers(300, size=(4000, 300))
    bootstrap = (correct[draws].sum(1) / total[draws].sum(1)).std()
    metric = fed(TokenAccuracy(), 300)
    p = float(metric.compute())
    _, error = metric.estimate_error()
    assert error == pytest.approx(bootstrap, rel=0.06)
    assert error > 1.2 * math.sqrt(p * (1 - p) / total.sum())


@pytest.mark.parametrize("kind", [ExactMatch, TokenAccuracy])
def test_batches_change_nothing(kind: type[RatioMetric]) -> None:
    assert fed(kind(), 7).estimate_error() == pytest.approx(fed(kind(), 300).estimate_error(), rel=1e-12)


def test_of_a_mean_over_values_and_over_batches() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    metric = TokenWeightedMean()
    metric.update(values)
    assert metric.estimate_error() == (4, pytest.approx(float(values.std()) / 2))
    of_batches = TokenWeightedMean()
    for value in values:
        of_batches.update(float(value), 3)
    of_batches.update(math.nan, 0)
    assert of_batches.estimate_error() == (4, pytest.approx(float(values.std()) / 2))


def test_none_where_it_cannot_be_known() -> None:
    metric = TokenWeightedMean()
    assert math.isnan(metric.estimate_error()[1])
    metric.update(1.0)
    assert metric.estimate_error()[0] == 1
    assert math.isnan(metric.estimate_error()[1])
    metric.reset()
    assert metric.estimate_error()[0] == 0


def test_network_calls_and_the_record() -> None:
    cost = GenerationCost()
    cost.timed("p", 4, CPU, lambda: {"network_calls": torch.tensor([1, 2, 4, 9])})
    assert cost.errors() == {"p/network_calls": (4, pytest.approx(float(torch.tensor([1.0, 2, 4, 9]).std()) / 2))}
    wrapper = MetricWrapper("exact_match", fed(ExactMatch(), 300), lambda *_: {})
    harness: Any = SimpleNamespace(
        dataloader_names={"test": {0: "p"}}, counts=lambda stage: {"test/p": 300}, generation_cost=cost,
        post_hoc=PostHocPasses(None),
        metrics_at=lambda stage, name: [wrapper],
    )  # fmt: skip
    estimates = Estimates()
    estimates.on_test_epoch_end(SimpleNamespace(), harness)  # type: ignore[arg-type]
    record = estimates.record({"test/p/exact_match": 0.7, "test/p/samples_per_second": 5.0})
    assert record["test/p/exact_match"]["n"] == 300
    assert record["test/p/exact_match"]["se"] == pytest.approx(wrapper.metric.estimate_error()[1])
    assert record["test/p/exact_match"]["se_over"] == "examples"
    assert record["test/p/samples_per_second"] == {"value": 5.0, "se": None, "n": 300, "se_over": None}


def test_calls_are_counted_row_by_row_and_the_predictor_stays_as_it_was() -> None:
    class Predictor:
        def predict(self, batch: Any) -> dict[str, Any]:
            return {"ids": batch["ids"], **({"network_calls": batch["calls"]} if "calls" in batch else {})}

    predictor, ids = Predictor(), torch.zeros(2, 3)
    with counting_calls(predictor) as calls:
        predictor.predict({"ids": ids, "calls": torch.tensor([3, 5])})
        predictor.predict({"ids": ids, "calls": 4})
        predictor.predict({"ids": ids})
    assert calls == [3.0, 5.0, 4.0, 4.0, None, None]
    assert vars(predictor) == {}

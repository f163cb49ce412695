"""Network calls and samples per second of a pass."""

from __future__ import annotations

import time

import pytest
import torch

from xlm.evaluation.cost import GenerationCost

CPU = torch.device("cpu")


def test_calls_are_averaged_over_samples_not_over_batches() -> None:
    cost = GenerationCost()
    cost.timed("prediction", 3, CPU, lambda: {"network_calls": torch.tensor([2, 4, 6])})
    cost.timed("prediction", 1, CPU, lambda: {"network_calls": torch.tensor([8])})
    assert cost.finish("val") == {"prediction/network_calls": 5.0}


def test_one_number_for_a_batch_counts_for_every_row_of_it() -> None:
    cost = GenerationCost()
    cost.timed("prediction", 3, CPU, lambda: {"network_calls": 2})
    cost.timed("prediction", 1, CPU, lambda: {"network_calls": 6})
    assert cost.finish("val")["prediction/network_calls"] == 3.0


def test_samples_per_second_are_told_after_a_test_only() -> None:
    def slow() -> dict[str, int]:
        time.sleep(0.05)
        return {}

    cost = GenerationCost()
    assert cost.timed("a", 4, CPU, slow) == {}
    values = cost.finish("test")
    assert set(values) == {"a/samples_per_second"}
    assert values["a/samples_per_second"] == pytest.approx(4 / 0.05, rel=0.5)
    assert cost.finish("test") == {}, "a pass starts anew"


def test_loaders_are_kept_apart() -> None:
    cost = GenerationCost()
    cost.timed("a", 1, CPU, lambda: {"network_calls": 1})
    cost.timed("b", 1, CPU, lambda: {"network_calls": 9})
    assert cost.finish("val") == {"a/network_calls": 1.0, "b/network_calls": 9.0}

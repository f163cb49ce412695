"""Remasking: the same law as without it, tokens really taken back, given ones never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xlm.decoding.fill import Filled, Slots, TokenDraw
from xlm.decoding.masking import StretchedSchedule
from xlm.decoding.remask import fill_with_remasking
from xlm.noise import LogLinearSchedule
from xlm.sampling import LogitsSampler

MASK = 3


def fill(oracle: Any, draw: TokenDraw, ids: Tensor, seeds: Tensor, eta: float, num_steps: int = 60) -> Filled:
    grid = StretchedSchedule(LogLinearSchedule()).grid(num_steps, torch.device("cpu"))
    return fill_with_remasking(oracle.network(), draw, ids, Slots.of(ids == MASK), grid, eta, MASK, seeds)


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_samples_follow_the_textbook_chain(
    eta: float, oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    n, num_steps = 20_000, 12
    filled = fill(oracle, draw, all_masked(n), torch.arange(n), eta, num_steps)
    grid = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    assert abs(oracle.chi_squared(filled.ids, oracle.chain(grid, eta))) < 4.5


def test_the_chain_goes_to_the_joint_as_steps_get_finer(oracle: Any) -> None:
    distances = []
    for num_steps in (10, 100, 1000):
        grid = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        distances.append(float((oracle.chain(grid, 0.3 / num_steps) - oracle.joint).abs().sum()))
    assert distances[0] > 5 * distances[1] > 25 * distances[2]


def test_tokens_are_taken_back_and_given_ones_stay(oracle: Any, draw: TokenDraw) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 4, (300, 4))
    filled = fill(oracle, draw, ids, torch.arange(300), 0.2)
    given = ids != MASK
    assert torch.equal(filled.ids[given], ids[given])
    assert (filled.ids != MASK).all()
    assert (filled.network_calls[given.all(1)] == 0).all()
    # More calls than masks: some position was filled twice.
    assert (filled.network_calls > (~given).sum(1)).any()


def test_a_batch_equals_its_rows(oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]) -> None:
    seeds = torch.arange(10) * 3
    together = fill(oracle, draw, all_masked(10), seeds, 0.1)
    for row in range(10):
        alone = fill(oracle, draw, all_masked(1), seeds[row : row + 1], 0.1)
        assert torch.equal(alone.ids, together.ids[row : row + 1])
        assert torch.equal(alone.network_calls, together.network_calls[row : row + 1])


def test_suppressed_tokens_never_appear(oracle: Any, all_masked: Callable[[int], Tensor]) -> None:
    filled = fill(oracle, TokenDraw(LogitsSampler(), [MASK, 0]), all_masked(200), torch.arange(200), 0.1)
    assert set(filled.ids.unique().tolist()) == {1, 2}

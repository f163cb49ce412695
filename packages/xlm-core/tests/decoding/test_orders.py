"""Schedules of filling: every mask once, in as many calls as allowed, uniformly random, on its own."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xlm.decoding.masking import StretchedSchedule
from xlm.decoding.orders import FillOrder, ancestral, fill_rates, first_hitting, uniform_order
from xlm.noise import LogLinearSchedule

masks = st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=4, max_size=4).map(torch.tensor)


def rates_of(masked: Tensor, seed: int = 0) -> Tensor:
    counters = torch.arange(masked.shape[1]).expand_as(masked)
    return fill_rates(masked, counters, torch.arange(len(masked)) + seed)


def check(order: FillOrder, masked: Tensor) -> None:
    """Visits of a row are 0, 1, 2 … without a gap, at masked positions only, and every call has a rate."""
    assert torch.equal(order.visit >= 0, masked)
    for visits in order.visit:
        present = visits[visits >= 0].unique().tolist()
        assert present == list(range(len(present)))
        assert len(present) <= order.rate.shape[1]


@given(masks, st.integers(1, 12))
@settings(deadline=None)
def test_uniform_order_fills_the_ceiling_of_masked_over_steps_left(masked: Tensor, max_steps: int) -> None:
    order = uniform_order(rates_of(masked), masked, max_steps)
    check(order, masked)
    for row, count in enumerate(masked.sum(1).tolist()):
        left, total = count, count
        for call in range(min(max_steps, count)):
            size = math.ceil(left / (max_steps - call))
            assert int((order.visit[row] == call).sum()) == size
            assert float(order.rate[row, call]) == pytest.approx(left / total)
            left -= size
        assert left == 0


@given(masks)
@settings(deadline=None)
def test_first_hitting_fills_one_position_per_call_at_falling_rates(masked: Tensor) -> None:
    rates = rates_of(masked)
    order = first_hitting(rates, masked)
    check(order, masked)
    for row in range(4):
        count = int(masked[row].sum())
        assert sorted(order.visit[row][masked[row]].tolist()) == list(range(count))
        for call in range(count):
            assert order.rate[row, call] == rates[row][order.visit[row] == call]
        assert (order.rate[row, :count].diff() < 0).all()


@given(masks, st.integers(1, 20))
@settings(deadline=None)
def test_ancestral_fills_in_the_step_that_passes_a_positions_rate(masked: Tensor, num_steps: int) -> None:
    rates, grid = rates_of(masked), torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    cached, textbook = ancestral(rates, masked, grid), ancestral(rates, masked, grid, visit_empty=True)
    check(cached, masked)
    for row, column in masked.nonzero().tolist():
        step = int(textbook.visit[row, column])
        assert grid[step + 1] < rates[row, column] <= grid[step]
        assert textbook.rate[row, step] == grid[step]
        assert cached.rate[row, cached.visit[row, column]] == grid[step]
    assert cached.rate.shape[1] == max(len(v[v >= 0].unique()) for v in textbook.visit)


def test_all_orders_are_equally_likely_and_prefer_no_position() -> None:
    masked = torch.ones(24_000, 4, dtype=torch.bool)
    visit = first_hitting(rates_of(masked), masked).visit
    code = (visit * 4 ** torch.arange(4)).sum(1)
    wanted = [sum(v * 4**i for i, v in enumerate(p)) for p in itertools.permutations(range(4))]
    observed = torch.tensor([int((code == c).sum()) for c in wanted]).double()
    assert observed.sum() == len(visit)
    assert float(((observed - 1000) ** 2 / 1000).sum()) < 23 + 4.5 * 46**0.5


def test_counts_per_step_are_binomial() -> None:
    """A mask leaves in the step from t to s with probability (α_s − α_t)/(1 − α_t), on its own."""
    masked = torch.ones(20_000, 6, dtype=torch.bool)
    grid = StretchedSchedule(LogLinearSchedule()).grid(4, torch.device("cpu"))
    visit = ancestral(rates_of(masked), masked, grid, visit_empty=True).visit
    counts = torch.bincount((visit == 0).sum(1), minlength=7).double()
    p = 0.25
    wanted = torch.tensor([math.comb(6, k) * p**k * (1 - p) ** (6 - k) for k in range(7)]).double() * len(visit)
    assert float(((counts - wanted) ** 2 / wanted).sum()) < 6 + 4.5 * 12**0.5


def test_a_row_draws_the_same_order_alone() -> None:
    masked = torch.rand(5, 8) < 0.6
    counters, seeds = torch.arange(8).expand(5, 8), torch.arange(5) * 7
    together = fill_rates(masked, counters, seeds)
    for row in range(5):
        here = slice(row, row + 1)
        assert torch.equal(fill_rates(masked[here], counters[here], seeds[here]), together[here])


def test_empty_batches_and_rows_without_masks() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    grid = torch.linspace(1, 0, 5, dtype=torch.float64)
    for masked in (nothing, nothing[:0]):
        rates = rates_of(masked)
        for order in (first_hitting(rates, masked), uniform_order(rates, masked, 3), ancestral(rates, masked, grid)):
            assert order.rate.shape[1] == 0
            assert (order.visit == -1).all()

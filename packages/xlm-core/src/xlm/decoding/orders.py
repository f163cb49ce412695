"""When each mask of a row is filled, drawn before the network runs: it doesn't depend on what the network says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.streams import Stream, uniform


class FillOrder(NamedTuple):
    """A row's own schedule: which call of the network fills a position, and at what rate of masks the call is made.

    `visit` counts the row's own calls from 0, with no gaps; -1 at positions that are not masked. `rate` is 1 − α at
    the time of the call, what a time-conditioned network wants to know; visits that a row doesn't have are 0.
    """

    visit: Integer[Tensor, "batch length"]
    rate: Float[Tensor, "batch visits"]


def fill_rates(
    masked: Bool[Tensor, "batch length"], counters: Integer[Tensor, "batch length"], seeds: Integer[Tensor, " batch"]
) -> Float[Tensor, "batch length"]:
    """The rate of masks 1 − α at which each position is filled, on the way from 1 to 0: U(0, 1); 0 where not masked.

    A token masked at rate m is still masked at rate m′ < m with probability m′/m, whatever the schedule.
    """
    return uniform(seeds[:, None], Stream.ORDER, counters).masked_fill(~masked, 0)


def ranks(
    rates: Float[Tensor, "batch length"], masked: Bool[Tensor, "batch length"]
) -> Integer[Tensor, "batch length"]:
    """Place of each masked position in the order of falling rates, from 0; -1 elsewhere."""
    order = rates.masked_fill(~masked, -1).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(rates.shape[1], device=rates.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places).masked_fill_(~masked, -1)


def first_hitting(rates: Float[Tensor, "batch length"], masked: Bool[Tensor, "batch length"]) -> FillOrder:
    """One position per call, exactly as in continuous time: the law of arXiv 2409.02908, section 4.

    The n-th call is made at the time at which the n-th mask vanishes, so that at most L calls are needed.
    """
    visit = ranks(rates, masked)
    descending = rates.masked_fill(~masked, 0).sort(dim=-1, descending=True).values
    return FillOrder(visit, descending[:, : int(masked.sum(dim=1).max()) if len(masked) else 0])


def uniform_order(
    rates: Float[Tensor, "batch length"], masked: Bool[Tensor, "batch length"], max_steps: int
) -> FillOrder:
    """⌈masked / steps left⌉ positions per call in uniformly random order, everything within `max_steps` calls."""
    count = masked.sum(dim=1, keepdim=True)
    small, num_large = count // max_steps, count % max_steps
    place = ranks(rates, masked)
    # The first `count mod steps` calls fill one more than the others.
    in_large = place < num_large * (small + 1)
    visit = torch.where(
        in_large, place // (small + 1), num_large + (place - num_large * (small + 1)) // small.clamp(min=1)
    )
    visit = visit.masked_fill(~masked, -1)
    calls = torch.arange(int(visit.max()) + 1 if visit.numel() else 0, device=rates.device)
    filled_before = torch.where(calls < num_large, calls * (small + 1), num_large + calls * small)
    left = (count - filled_before).clamp(min=0)
    return FillOrder(visit, left.to(rates.dtype) / count.clamp(min=1))


def ancestral(
    rates: Float[Tensor, "batch length"],
    masked: Bool[Tensor, "batch length"],
    grid: Float[Tensor, " points"],
    visit_empty: bool = False,
) -> FillOrder:
    """Ancestral sampling on a grid of rates that falls from 1 to 0 (arXiv 2406.07524, eq. 7): T steps, T + 1 points.

    Which positions a step fills doesn't depend on the network, so only steps that fill something are visited, with or
    without time conditioning. `visit_empty` is the textbook form: the network runs at every step until nothing is
    masked.
    """
    num_steps = len(grid) - 1
    ascending = grid.flip(0).contiguous()
    # Filled in the step from grid[i] down to grid[i + 1] if the rate lies in (grid[i + 1], grid[i]].
    upper = torch.searchsorted(ascending, rates.contiguous()).clamp(1, num_steps)
    step = (num_steps - upper).masked_fill(~masked, -1)
    if visit_empty:
        last = int(step.max()) + 1 if step.numel() else 0
        return FillOrder(step, grid[:last].expand(len(step), last))
    ordered, index = step.masked_fill(~masked, num_steps).sort(dim=1, stable=True)
    starts = torch.ones_like(masked)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    visit_of_place = starts.long().cumsum(dim=1) - 1
    num_visits = int((visit_of_place + 1).masked_fill(ordered == num_steps, 0).max()) if step.numel() else 0
    # Positions that are not masked come last, with the grid's last rate: 0.
    rate = torch.zeros(len(step), num_visits + 1, dtype=grid.dtype, device=grid.device)
    rate.scatter_(1, visit_of_place, grid[ordered])
    visit = torch.empty_like(step).scatter_(1, index, visit_of_place).masked_fill_(~masked, -1)
    return FillOrder(visit, rate[:, :num_visits])

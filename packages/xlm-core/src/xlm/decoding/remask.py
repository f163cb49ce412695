"""Sampling that may take tokens back: each step of the grid masks some of them again (ReMDM, arXiv 2503.00307)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from xlm.decoding.fill import Filled, MaskedNetwork, Slots, TokenDraw
from xlm.decoding.streams import Stream, derive, uniform
from xlm.decoding.trace import recording


def remask_probability(rate: Float[Tensor, ""], next_rate: Float[Tensor, ""], remasking: float) -> Float[Tensor, ""]:
    """σ = min(η, (1 − α_s) / α_t): as often as asked for, as far as the marginals allow ("cap", section 4.1)."""
    return torch.clamp(next_rate / (1 - rate).clamp(min=torch.finfo(rate.dtype).tiny), max=remasking)


def fill_with_remasking(
    network: MaskedNetwork,
    draw: TokenDraw,
    ids: Integer[Tensor, "batch length"],
    slots: Slots,
    grid: Float[Tensor, " points"],
    remasking: float,
    mask_token_id: int,
    seeds: Integer[Tensor, " batch"],
) -> Filled:
    """Walk down a grid of rates from 1 to 0; a filled slot is masked again with probability σ, a given token never.

    A mask is filled with probability (α_s − (1 − σ) α_t) / (1 − α_t), which keeps each step's share of masks what it is
    without remasking (eq. 5). The network runs only for rows in which this step fills something.
    """
    ids, masked = ids.clone(), slots.masked.clone()
    filled_by = torch.full_like(ids, -1)
    calls, trace = ids.new_zeros(len(ids)), recording()
    for step in range(len(grid) - 1):
        rate, next_rate = grid[step], grid[step + 1]
        sigma = remask_probability(rate, next_rate, remasking)
        fill = (1 - next_rate - (1 - sigma) * (1 - rate)) / rate
        step_seeds = derive(seeds, step)
        u = uniform(step_seeds[:, None], Stream.REMASK, slots.counters)
        taken_back = slots.masked & ~masked & (u < sigma)
        chosen = masked & (u < fill) if step < len(grid) - 2 else masked.clone()
        rows = chosen.any(dim=1).nonzero().squeeze(1)
        if len(rows):
            features = network.features(ids[rows], rows, rate.expand(len(rows)))
            row, column = chosen[rows].nonzero(as_tuple=True)
            at = rows[row]
            allowed = draw.allowed(network.logits(features[row, column]), slots.inside[at, column])
            ids[at, column] = draw(allowed, step_seeds[at], slots.counters[at, column])
            filled_by[at, column] = calls[at]
            if trace is not None:
                trace.step(rows)
                trace.wrote(at, column, ids[at, column], allowed)
            calls[rows] += 1
        ids.masked_fill_(taken_back, mask_token_id)
        if trace is not None:
            trace.masked(taken_back, mask_token_id)
        masked = (masked & ~chosen) | taken_back
    return Filled(ids, filled_by, calls)

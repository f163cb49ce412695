"""Draws gaps and tokens from logits with one number in [0, 1) per row and choice, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from ilm.slot_logits_ilm import CHUNK_ELEMENTS, linear_logsumexp, wide_logits
from xlm.sampling import LogitsSampler, sampling_dtype


def draw(logits: Float[Tensor, "rows choices"], u: Float[Tensor, " rows"]) -> Integer[Tensor, " rows"]:
    """Each row's choice by the inverse of its distribution function at u; never one whose logit is −inf.

    Unlike Gumbel noise this takes one number a row, so that a row can have a random stream of its own.
    """
    cumulative = logits.to(sampling_dtype(logits.device)).softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1]
    at = torch.minimum(u.to(total.dtype) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, at[:, None], right=True).squeeze(-1)


def choose(
    sampler: LogitsSampler, logits: Float[Tensor, "rows choices"], u: Float[Tensor, " rows"]
) -> Integer[Tensor, " rows"]:
    """The sampler's choice among its filtered logits; greedy looks at no u."""
    return logits.argmax(dim=-1) if sampler.greedy else draw(sampler.filter(logits), u)


@dataclass(frozen=True)
class Head:
    """The token head with the tokens it must not give: logits of any gaps, and of gaps as a whole."""

    weight: Float[Tensor, "vocab d_model"]
    exclude_ids: Integer[Tensor, " excluded"]
    temperature: float = 1.0

    def logits(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
        """Of tokens, at the temperature."""
        return wide_logits(hidden, self.weight, self.exclude_ids, self.temperature)

    def slot_logits(
        self, hidden: Float[Tensor, "rows length d_model"], is_open: Bool[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length"]:
        """logsumexp over the tokens of every open gap: log of its share, up to a constant; −inf where closed."""
        lse = linear_logsumexp(hidden[is_open], self.weight, self.exclude_ids, self.temperature)
        return lse.new_full(is_open.shape, -torch.inf).masked_scatter(is_open, lse)


def choose_pair(
    sampler: LogitsSampler,
    head: Head,
    hidden: Float[Tensor, "rows length d_model"],
    is_open: Bool[Tensor, "rows length"],
    u: Float[Tensor, " rows"],
) -> tuple[Integer[Tensor, " rows"], Integer[Tensor, " rows"]]:
    """(gap, token) by the filters on all pairs of a row at once, some rows at a time so that few logits exist."""
    first = int(is_open.any(dim=0).nonzero()[0])  # prompts have no open gap
    hidden, is_open = hidden[:, first:], is_open[:, first:]
    R, W, _ = hidden.shape
    V = head.weight.shape[0]
    found = []
    for rows in torch.arange(R, device=u.device).split(max(1, CHUNK_ELEMENTS // (W * V))):
        logits = head.logits(hidden[rows].flatten(0, 1)).view(len(rows), W, V)
        logits = logits.masked_fill(~is_open[rows].unsqueeze(-1), -torch.inf)
        found.append(choose(sampler, logits.flatten(1), u[rows]))
    pair = torch.cat(found)
    return pair // V + first, pair % V


def choose_slots(
    sampler: LogitsSampler,
    slot_logits: Float[Tensor, "rows length"],
    u: Float[Tensor, "rows num"],
    allowed: Integer[Tensor, " rows"],
    min_prob: float,
) -> Integer[Tensor, "rows num"]:
    """Up to `num` gaps of every row, no two of them side by side; −1 for none.

    The first is the sampler's choice; further ones need at least `min_prob` of the whole row, and there are at most
    `allowed` of a row.
    """
    logits, slots, num = slot_logits, [], u.shape[1]
    if num > 1:
        share = slot_logits.to(sampling_dtype(slot_logits.device)).softmax(dim=-1)
        columns = torch.arange(logits.shape[1], device=logits.device)
    for j in range(num):
        possible = logits.isfinite().any(dim=-1) & (j < allowed)
        # A row without any choice left is drawn from as if all were equal, and the draw thrown away.
        slot = choose(sampler, torch.where(possible[:, None], logits, 0), u[:, j])
        slots.append(torch.where(possible, slot, -1))
        if j < num - 1:
            near = (columns - slot[:, None]).abs() <= 1
            logits = logits.masked_fill(near | (share < min_prob), -torch.inf)
    return torch.stack(slots, dim=1)

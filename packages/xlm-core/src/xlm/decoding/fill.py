"""Fills masks with tokens: positions first, then the output layer and the draw on the chosen positions only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.orders import FillOrder
from xlm.decoding.streams import draw_tokens
from xlm.decoding.trace import recording
from xlm.modules.attention import positions_from_mask
from xlm.sampling import Confidence, LogitsSampler, confidence_bound, confidence_scores, sampling_dtype


class MaskedNetwork(NamedTuple):
    """A network that predicts what stands under the masks, cut before its output layer.

    features: (ids (R, L), rows (R,), rate (R,)) → (R, L, D). `rows` says which rows of the batch these are, `rate`
        at which rate of masks 1 − α they stand, for networks that are conditioned on it.
    logits: (N, D) → (N, V).
    """

    features: Callable[[Tensor, Tensor, Tensor], Tensor]
    logits: Callable[[Tensor], Tensor]


class Slots(NamedTuple):
    """Where tokens are wanted in a batch (B, L).

    Args:
        masked: the positions to be filled.
        counters: number of each position in its row's stream; padding isn't counted, so it changes no draw.
        inside: positions with a given token somewhere after them, where the text therefore cannot end.
    """

    masked: Bool[Tensor, "batch length"]
    counters: Integer[Tensor, "batch length"]
    inside: Bool[Tensor, "batch length"]

    @classmethod
    def of(cls, masked: Tensor, attention_mask: Tensor | None = None) -> Slots:
        """The slots of rows with these masks; without an attention mask all positions are real."""
        real = torch.ones_like(masked) if attention_mask is None else attention_mask | masked
        given = real & ~masked
        after = given.flip(1).long().cumsum(dim=1).flip(1) - given.long()
        return cls(masked, positions_from_mask(real), masked & (after > 0))


class Filled(NamedTuple):
    """A batch without masks.

    `order`: the row's own call (from 0) that filled a position, -1 where it was given. `network_calls`: forward
    passes in which each row took part.
    """

    ids: Integer[Tensor, "batch length"]
    order: Integer[Tensor, "batch length"]
    network_calls: Integer[Tensor, " batch"]


@dataclass(frozen=True)
class TokenDraw:
    """How a token is drawn at a position: filters of the sampler, tokens that are never drawn, the row's stream.

    Args:
        sampler: temperature, top-k, top-p, min-p, each on the logits.
        suppressed: ids with probability 0; the mask token has to be among them (SUBS, arXiv 2406.07524).
        eos_token_id: suppressed inside a text that is known to go on; None for no such token.
    """

    sampler: LogitsSampler
    suppressed: Sequence[int]
    eos_token_id: int | None = None

    def allowed(
        self, logits: Float[Tensor, "rows vocab"], inside: Bool[Tensor, " rows"]
    ) -> Float[Tensor, "rows vocab"]:
        """The logits with −inf at suppressed tokens, and at EOS in rows `inside` a text."""
        never = torch.tensor(sorted(set(self.suppressed)), dtype=torch.long, device=logits.device)
        logits = logits.index_fill(-1, never, -torch.inf)
        if self.eos_token_id is not None:
            logits[:, self.eos_token_id].masked_fill_(inside, -torch.inf)
        return logits

    def __call__(
        self,
        allowed: Float[Tensor, "rows vocab"],
        seeds: Integer[Tensor, " rows"],
        counters: Integer[Tensor, " rows"],
    ) -> Integer[Tensor, " rows"]:
        """One token per row of allowed logits."""
        return draw_tokens(self.sampler, allowed, seeds, counters)


def fill_by_order(
    network: MaskedNetwork,
    draw: TokenDraw,
    ids: Integer[Tensor, "batch length"],
    slots: Slots,
    order: FillOrder,
    seeds: Integer[Tensor, " batch"],
) -> Filled:
    """Run every row through its own calls; a row that has no more leaves the batch."""
    ids, visit, trace = ids.clone(), order.visit, recording()
    num_visits = visit.amax(dim=1) + 1 if visit.shape[1] else visit.new_zeros(len(visit))
    for call in range(order.rate.shape[1]):
        rows = (num_visits > call).nonzero().squeeze(1)
        features = network.features(ids[rows], rows, order.rate[rows, call])
        if trace is not None:
            trace.step(rows)
        row, column = (visit[rows] == call).nonzero(as_tuple=True)
        if len(row):  # textbook ancestral sampling also visits steps that fill nothing
            at = rows[row]
            allowed = draw.allowed(network.logits(features[row, column]), slots.inside[at, column])
            ids[at, column] = draw(allowed, seeds[at], slots.counters[at, column])
            if trace is not None:
                trace.wrote(at, column, ids[at, column], allowed)
    return Filled(ids, visit, num_visits)


@dataclass(frozen=True)
class ConfidenceOrder:
    """The surest positions first: ⌈masked / steps left⌉ of them per call, or all that are sure enough.

    Args:
        kind: "top_prob", "prob_diff" (margin between the best two) or "entropy" (low is sure).
        max_steps: most calls per row; the last one fills what remains.
        threshold: fill every position with at least this confidence (at most this entropy, in nats), and always the
            surest one; None for a fixed number per call.
    """

    kind: Confidence
    max_steps: int
    threshold: float | None = None

    def choose(
        self,
        scores: Float[Tensor, "rows length"],
        masked: Bool[Tensor, "rows length"],
        steps_left: int,
    ) -> Bool[Tensor, "rows length"]:
        """Which masked positions to fill now, by `confidence_scores`; those of other positions don't matter.

        Of positions that are equally sure the leftmost comes first.
        """
        if steps_left == 1:
            return masked
        # A masked −inf must still come before a position that isn't masked.
        scores = scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(~masked, -torch.inf)
        by_rank = scores.argsort(dim=-1, descending=True, stable=True)
        places = torch.arange(scores.shape[1], device=scores.device).expand_as(by_rank)
        rank = torch.empty_like(by_rank).scatter_(-1, by_rank, places)
        if self.threshold is None:
            count = masked.sum(dim=1, keepdim=True)
            return masked & (rank < (count + steps_left - 1) // steps_left)
        return masked & ((scores >= confidence_bound(self.threshold, self.kind)) | (rank == 0))


def fill_by_confidence(
    network: MaskedNetwork,
    draw: TokenDraw,
    ids: Integer[Tensor, "batch length"],
    slots: Slots,
    order: ConfidenceOrder,
    seeds: Integer[Tensor, " batch"],
) -> Filled:
    """Fill the positions that the network is surest of first; confidence is that of the unfiltered prediction."""
    ids, masked = ids.clone(), slots.masked.clone()
    filled_by = torch.full_like(ids, -1)
    calls = ids.new_zeros(len(ids))
    total, trace = masked.sum(dim=1), recording()
    for call in range(order.max_steps):
        rows = masked.any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            break
        open_ = masked[rows]
        rate = open_.sum(dim=1).to(sampling_dtype(ids.device)) / total[rows]
        features = network.features(ids[rows], rows, rate)
        allowed = draw.allowed(network.logits(features[open_]), slots.inside[rows][open_])
        scores = torch.full(open_.shape, -torch.inf, dtype=torch.float32, device=ids.device)
        scores[open_] = confidence_scores(allowed, order.kind)
        chosen = order.choose(scores, open_, order.max_steps - call)
        row, column = chosen.nonzero(as_tuple=True)
        at = rows[row]
        ids[at, column] = draw(allowed[chosen[open_]], seeds[at], slots.counters[at, column])
        if trace is not None:
            trace.step(rows)
            trace.wrote(at, column, ids[at, column], allowed[chosen[open_]])
        masked[at, column] = False
        filled_by[at, column] = call
        calls[rows] += 1
    return Filled(ids, filled_by, calls)

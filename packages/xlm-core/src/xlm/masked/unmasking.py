"""Fills masks with tokens: when each position is filled, by which network call, and with which token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.counter_rng import Stream, derive, draw_tokens, gumbel_of, noisiest, token_keys, uniform
from xlm.decoding.trace import recording
from xlm.errors import ConfigError
from xlm.modules.attention import positions_from_mask
from xlm.sampling import Confidence, LogitsSampler, confidence_bound, confidence_scores, sampling_dtype

# Numbers of a text's noise that are drawn before its first call, if they are no more.
_DRAWN_AT_ONCE = 2**18

# When each position is filled: drawn before the network runs, because it doesn't depend on what the network says.


class FillOrder(NamedTuple):
    """A row's own schedule: which call of the network fills a position, and with how many masks the call is made.

    `step_index` counts the row's own calls from 0, with no gaps; -1 at positions that are not masked. `mask_prob` is
    1 − α at the time of the call, the condition of a time-conditioned network; 0 for calls that a row doesn't have.
    """

    step_index: Integer[Tensor, "batch length"]
    mask_prob: Float[Tensor, "batch steps"]


def fill_mask_probs(
    masked: Bool[Tensor, "batch length"], counters: Integer[Tensor, "batch length"], seeds: Integer[Tensor, " batch"]
) -> Float[Tensor, "batch length"]:
    """1 − α at the time at which each position is filled, on the way from 1 to 0: U(0, 1); 0 where not masked.

    A token masked at 1 − α = m is still masked at m′ < m with probability m′/m, whatever the schedule.
    """
    return uniform(seeds[:, None], Stream.ORDER, counters).masked_fill(~masked, 0)


def block_by_block(mask_probs: Float[Tensor, "batch length"], slots: Slots) -> Float[Tensor, "batch length"]:
    """The same order within each block, and one block after the other: 1 − α is what of a row's masks is left.

    The marginals of a row with one block don't change.
    """
    if slots.blocks is None:
        return mask_probs
    blocks = slots.blocks.clamp(min=0)
    counts = torch.zeros_like(mask_probs).scatter_add_(1, blocks, slots.masked.to(mask_probs.dtype))
    behind = counts.sum(dim=1, keepdim=True) - counts.cumsum(dim=1)
    total = counts.sum(dim=1, keepdim=True).clamp(min=1)
    left = (behind.gather(1, blocks) + mask_probs * counts.gather(1, blocks)) / total
    return left.masked_fill(~slots.masked, 0)


def ranks(
    mask_probs: Float[Tensor, "batch length"], masked: Bool[Tensor, "batch length"]
) -> Integer[Tensor, "batch length"]:
    """Place of each masked position in the order of falling probabilities, from 0; -1 elsewhere."""
    order = mask_probs.masked_fill(~masked, -1).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(mask_probs.shape[1], device=mask_probs.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places).masked_fill_(~masked, -1)


def first_hitting(mask_probs: Float[Tensor, "batch length"], masked: Bool[Tensor, "batch length"]) -> FillOrder:
    """One position per call, exactly as in continuous time: the law of arXiv 2409.02908, section 4.

    The n-th call is made at the time at which the n-th mask vanishes, so that at most L calls are needed.
    """
    step_index = ranks(mask_probs, masked)
    descending = mask_probs.masked_fill(~masked, 0).sort(dim=-1, descending=True).values
    return FillOrder(step_index, descending[:, : int(masked.sum(dim=1).max()) if len(masked) else 0])


def uniform_order(
    mask_probs: Float[Tensor, "batch length"], masked: Bool[Tensor, "batch length"], max_steps: int
) -> FillOrder:
    """⌈masked / steps left⌉ positions per call in uniformly random order, everything within `max_steps` calls."""
    count = masked.sum(dim=1, keepdim=True)
    small, num_large = count // max_steps, count % max_steps
    place = ranks(mask_probs, masked)
    # The first `count mod steps` calls fill one more than the others.
    in_large = place < num_large * (small + 1)
    step_index = torch.where(
        in_large, place // (small + 1), num_large + (place - num_large * (small + 1)) // small.clamp(min=1)
    )
    step_index = step_index.masked_fill(~masked, -1)
    calls = torch.arange(int(step_index.max()) + 1 if step_index.numel() else 0, device=mask_probs.device)
    filled_before = torch.where(calls < num_large, calls * (small + 1), num_large + calls * small)
    left = (count - filled_before).clamp(min=0)
    return FillOrder(step_index, left.to(mask_probs.dtype) / count.clamp(min=1))


def ancestral(
    mask_probs: Float[Tensor, "batch length"],
    masked: Bool[Tensor, "batch length"],
    grid: Float[Tensor, " points"],
    run_empty_steps: bool = False,
) -> FillOrder:
    """Ancestral sampling on a grid of 1 − α from 1 down to 0 (arXiv 2406.07524, eq. 7): T steps, T + 1 points.

    Which positions a step fills doesn't depend on the network, so only steps that fill something are run, with or
    without time conditioning. `run_empty_steps` is the textbook form: the network runs at every step until nothing is
    masked.
    """
    num_steps = len(grid) - 1
    ascending = grid.flip(0).contiguous()
    # Filled in the step from grid[i] down to grid[i + 1] if its probability lies in (grid[i + 1], grid[i]].
    upper = torch.searchsorted(ascending, mask_probs.contiguous()).clamp(1, num_steps)
    step = (num_steps - upper).masked_fill(~masked, -1)
    if run_empty_steps:
        last = int(step.max()) + 1 if step.numel() else 0
        return FillOrder(step, grid[:last].expand(len(step), last))
    ordered, index = step.masked_fill(~masked, num_steps).sort(dim=1, stable=True)
    starts = torch.ones_like(masked)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    step_of_place = starts.long().cumsum(dim=1) - 1
    max_calls = int((step_of_place + 1).masked_fill(ordered == num_steps, 0).max()) if step.numel() else 0
    # Positions that are not masked come last, with the grid's last value: 0.
    mask_prob = torch.zeros(len(step), max_calls + 1, dtype=grid.dtype, device=grid.device)
    mask_prob.scatter_(1, step_of_place, grid[ordered])
    step_index = torch.empty_like(step).scatter_(1, index, step_of_place).masked_fill_(~masked, -1)
    return FillOrder(step_index, mask_prob[:, :max_calls])


# The network's calls.


class MaskedNetwork(NamedTuple):
    """A network that predicts what stands under the masks, cut before its output layer.

    features: (ids (R, L), rows (R,), mask_prob (R,), index (N,)) → (N, D), at these flat positions (R · L), ascending.
        `rows` says which rows of the batch these are, `mask_prob` is 1 − α at their time, for networks that are
        conditioned on it.
    logits: (N, D) → (N, V).
    """

    features: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    logits: Callable[[Tensor], Tensor]


class Slots(NamedTuple):
    """Where tokens are wanted in a batch (B, L).

    Args:
        masked: the positions to be filled.
        counters: number of each position in its row's stream; padding isn't counted, so it changes no draw.
        before_given_token: positions with a given token somewhere after them, where the text therefore cannot end.
        blocks: number of the block of each position, from 0 at a row's first mask and -1 before it and at padding.
            Blocks are filled one after the other; None for one block.
    """

    masked: Bool[Tensor, "batch length"]
    counters: Integer[Tensor, "batch length"]
    before_given_token: Bool[Tensor, "batch length"]
    blocks: Integer[Tensor, "batch length"] | None = None

    @classmethod
    def of(cls, masked: Tensor, attention_mask: Tensor | None = None, block: int | None = None) -> Slots:
        """The slots of rows with these masks, in blocks of so many tokens; without an attention mask all are real."""
        real = torch.ones_like(masked) if attention_mask is None else attention_mask | masked
        given = real & ~masked
        after = given.flip(1).long().cumsum(dim=1).flip(1) - given.long()
        counters = positions_from_mask(real)
        blocks = None
        if block is not None:
            first = counters.masked_fill(~masked, counters.shape[1]).amin(dim=1, keepdim=True)
            blocks = torch.div(counters - first, block, rounding_mode="floor").clamp(min=-1).masked_fill(~real, -1)
        return cls(masked, counters, masked & (after > 0), blocks)

    def in_first_blocks(
        self, rows: Integer[Tensor, " rows"], masked: Bool[Tensor, "rows length"], fewest: Integer[Tensor, "rows 1"]
    ) -> Bool[Tensor, "rows length"]:
        """Of what is still masked, the first block, and further ones until there are so many masks; needs `blocks`."""
        assert self.blocks is not None
        blocks = self.blocks[rows]
        enough = masked & (masked.long().cumsum(dim=1) >= fewest)
        last = blocks.gather(1, enough.long().argmax(dim=1, keepdim=True))
        return masked & (blocks <= last)

    def most(self) -> int:
        """Masks of the row that has most of them, at least 1."""
        return max(1, int(self.masked.sum(dim=1).max())) if self.masked.numel() else 1


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
        self, logits: Float[Tensor, "rows vocab"], before_given_token: Bool[Tensor, " rows"]
    ) -> Float[Tensor, "rows vocab"]:
        """The logits with −inf at suppressed tokens, and at EOS in rows that a given token follows."""
        logits = logits.index_fill(-1, self._never.to(logits.device), -torch.inf)
        if self.eos_token_id is not None:
            logits[:, self.eos_token_id].masked_fill_(before_given_token, -torch.inf)
        return logits

    def __call__(
        self,
        allowed: Float[Tensor, "rows vocab"],
        seeds: Integer[Tensor, " rows"],
        counters: Integer[Tensor, " rows"],
    ) -> Integer[Tensor, " rows"]:
        """One token per row of allowed logits."""
        return self.by_keys(allowed, token_keys(seeds, counters))

    def by_keys(self, allowed: Float[Tensor, "rows vocab"], keys: Integer[Tensor, " rows"]) -> Integer[Tensor, " rows"]:
        """The same from `token_keys`, which may be computed for all calls at once."""
        return draw_tokens(self.sampler, allowed, keys)

    def of_text(self, keys: Integer[Tensor, " positions"]) -> Callable[[Tensor, Tensor], Tensor]:
        """The same for all calls of a text, from the logits and the places of their `token_keys` among these.

        The noise of small texts is drawn at once, since many small draws cost more than large ones.
        """
        noise: list[Tensor] = []

        def drawn(allowed: Tensor, at: Tensor) -> Tensor:
            if not self.sampler.keeps_all or len(keys) * allowed.shape[-1] > _DRAWN_AT_ONCE:
                return self.by_keys(allowed, keys[at])
            if not noise:
                noise.append(gumbel_of(keys, torch.arange(allowed.shape[-1], device=keys.device)))
            return noisiest(noise[0][at], self.sampler.filter(allowed))

        return drawn

    @cached_property
    def _never(self) -> Tensor:
        return torch.tensor(sorted(set(self.suppressed)), dtype=torch.long)


class Ends:
    """Finds rows whose text is complete: nothing before their first EOS is masked."""

    def __init__(self, draw: TokenDraw, slots: Slots) -> None:
        self._eos, self._slots = draw.eos_token_id, slots
        self._found = torch.zeros_like(slots.masked[:, 0])
        # Positions before the first EOS of each row; None before there is one.
        self._before: Tensor | None = None

    def complete(
        self,
        ids: Integer[Tensor, "batch length"],
        tokens: Integer[Tensor, " filled"],
        masked: Bool[Tensor, "batch length"],
    ) -> Integer[Tensor, " complete"]:
        """Rows that are found to be complete now that these tokens are filled in.

        Their other masks become EOS in place, since what stands behind the first one is cut off.
        """
        if self._eos is not None and bool((tokens == self._eos).any()):
            self._before = (self._slots.masked & ~masked & (ids == self._eos)).cumsum(dim=1) == 0
        if self._before is None or self._eos is None:
            return tokens[:0]
        found = self._found | ~(masked & self._before).any(dim=1)
        if torch.equal(found, self._found):
            return tokens[:0]
        rows = (found ^ self._found).nonzero().squeeze(1)
        self._found = found
        ids[rows] = ids[rows].masked_fill(masked[rows], self._eos)
        return rows


def fill_by_order(
    network: MaskedNetwork,
    draw: TokenDraw,
    ids: Integer[Tensor, "batch length"],
    slots: Slots,
    order: FillOrder,
    seeds: Integer[Tensor, " batch"],
) -> Filled:
    """Run every row through its own calls; a row that has no more, or whose text is complete, leaves the batch."""
    ids = ids.clone(memory_format=torch.contiguous_format)
    step_index, trace = order.step_index.clone(), recording()
    num_rows, length = ids.shape
    drawn = draw.of_text(token_keys(seeds[:, None], slots.counters).flatten())
    before_given_token = slots.before_given_token.flatten()
    num_calls = step_index.amax(dim=1) + 1 if length else step_index.new_zeros(num_rows)
    # Read once: what is asked for within a call waits for the device.
    left, ends, has_ended = num_calls.tolist(), Ends(draw, slots), False
    every, rows = torch.arange(num_rows, device=ids.device), None
    for call, filled in enumerate(_filled_by_call(step_index, order.mask_prob.shape[1])):
        if rows is None or call in left:
            left = [n for n in left if n > call]
            rows = every if len(left) == num_rows else (num_calls > call).nonzero().squeeze(1)
        if not left:
            break
        given, mask_prob, index = ids, order.mask_prob[:, call], filled
        if len(left) < num_rows:
            given, mask_prob, row = ids[rows], mask_prob[rows], filled // length
            if has_ended:
                filled = filled[num_calls[row] > call]
                row = filled // length
            index = torch.searchsorted(rows, row) * length + filled % length
        features = network.features(given, rows, mask_prob, index)
        if trace is not None:
            trace.step(rows)
        if len(filled):  # textbook ancestral sampling also runs steps that fill nothing
            allowed = draw.allowed(network.logits(features), before_given_token[filled])
            tokens = drawn(allowed, filled)
            ids.view(-1)[filled] = tokens
            if trace is not None:
                trace.wrote(filled // length, filled % length, tokens, allowed)
            if len(rows_done := ends.complete(ids, tokens, step_index > call)):
                step_index[rows_done] = step_index[rows_done].where(step_index[rows_done] <= call, -1)
                num_calls[rows_done] = num_calls[rows_done].clamp(max=call + 1)
                left, has_ended, rows = num_calls.tolist(), True, None
    return Filled(ids, step_index, num_calls)


def _filled_by_call(step_index: Integer[Tensor, "batch length"], num_calls: int) -> tuple[Tensor, ...]:
    """The flat positions that each call fills, ascending."""
    flat = step_index.flatten()
    counts = torch.bincount(flat + 1, minlength=num_calls + 1).tolist()
    return flat.argsort(stable=True).split(counts)[1 : num_calls + 1]


@dataclass(frozen=True)
class ConfidenceOrder:
    """The surest positions first: ⌈masked / steps left⌉ of them per call, or as many as a bound allows.

    Args:
        kind: "top_prob", "prob_diff" (margin between the best two) or "entropy" (low is sure).
        max_steps: most calls per row; the last one fills what remains.
        threshold: fill every position with at least this confidence (at most this entropy, in nats), and always the
            surest one; None for another rule.
        entropy_bound: γ, in nats: fill the longest sequence of surest positions with Σ H − max H ≤ γ, H being the
            entropies of their predictions. The sum bounds what is lost by drawing them independently, their total
            correlation (EB-Sampler, arXiv 2505.24857, eq. 11). None for another rule.
    """

    kind: Confidence
    max_steps: int
    threshold: float | None = None
    entropy_bound: float | None = None

    def fewest(self, masked: Bool[Tensor, "rows length"], steps_left: int) -> Integer[Tensor, "rows 1"]:
        """How many masks of each row a call has to fill: the last call fills all."""
        count = masked.sum(dim=1, keepdim=True)
        if steps_left > 1 and (self.threshold is not None or self.entropy_bound is not None):
            return count.clamp(max=1)
        return (count + steps_left - 1) // steps_left

    def choose(
        self,
        scores: Float[Tensor, "rows length"],
        masked: Bool[Tensor, "rows length"],
        steps_left: int,
        entropies: Float[Tensor, "rows length"] | None = None,
        fewest: Integer[Tensor, "rows 1"] | None = None,
    ) -> Bool[Tensor, "rows length"]:
        """Which masked positions to fill now, by `confidence_scores`; those of other positions don't matter.

        Of positions that are equally sure the leftmost comes first. `entropies` (nats) are for `entropy_bound`;
        `fewest`, how many to fill at least, where `masked` leaves out masks of later blocks.
        """
        fewest = self.fewest(masked, steps_left) if fewest is None else fewest
        # A masked −inf must still come before a position that isn't masked.
        scores = scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(~masked, -torch.inf)
        by_rank = scores.argsort(dim=-1, descending=True, stable=True)
        places = torch.arange(scores.shape[1], device=scores.device).expand_as(by_rank)
        rank = torch.empty_like(by_rank).scatter_(-1, by_rank, places)
        if self.entropy_bound is not None:
            assert entropies is not None
            by_place = entropies.masked_fill(~masked, torch.inf).gather(-1, by_rank)
            lost = by_place.cumsum(dim=-1) - by_place.cummax(dim=-1).values
            # It never falls from one place to the next, so those within the bound are the first ones. The very first
            # loses nothing; its entropy may be infinite in arithmetic.
            within = (lost <= self.entropy_bound) | (places < fewest)
            return masked & torch.empty_like(within).scatter_(-1, by_rank, within)
        if self.threshold is None:
            return masked & (rank < fewest)
        return masked & ((scores >= confidence_bound(self.threshold, self.kind)) | (rank < fewest))


def check_one_rule(threshold: float | None, entropy_bound: float | None) -> None:
    """ConfigError if both say how many positions a call fills."""
    if threshold is not None and entropy_bound is not None:
        raise ConfigError(
            "predictor.threshold and predictor.entropy_bound are two rules for how many masks a call fills: give one."
        )


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
    total, trace, ends = masked.sum(dim=1), recording(), Ends(draw, slots)
    keys = token_keys(seeds[:, None], slots.counters)
    for call in range(order.max_steps):
        rows = masked.any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            break
        open_, steps_left, given = masked[rows], order.max_steps - call, {}
        mask_prob = open_.sum(dim=1).to(sampling_dtype(ids.device)) / total[rows]
        if slots.blocks is not None:
            given["fewest"] = order.fewest(open_, steps_left)
            open_ = slots.in_first_blocks(rows, open_, given["fewest"])
        # Found once: every indexing by a mask waits for the device.
        place = open_.nonzero(as_tuple=True)
        features = network.features(ids[rows], rows, mask_prob, place[0] * ids.shape[1] + place[1])
        allowed = draw.allowed(network.logits(features), slots.before_given_token[rows][place])
        scores = torch.full(open_.shape, -torch.inf, dtype=torch.float32, device=ids.device)
        scores[place] = confidence_scores(allowed, order.kind)
        if order.entropy_bound is not None:
            of_entropy = scores[place] if order.kind == "entropy" else confidence_scores(allowed, "entropy")
            given["entropies"] = torch.zeros_like(scores)
            given["entropies"][place] = of_entropy.neg().exp()
        picked = order.choose(scores, open_, steps_left, **given)[place].nonzero().squeeze(1)
        at, column = rows[place[0][picked]], place[1][picked]
        tokens = draw.by_keys(allowed[picked], keys[at, column])
        ids[at, column] = tokens
        if trace is not None:
            trace.step(rows)
            trace.wrote(at, column, tokens, allowed[picked])
        masked[at, column] = False
        filled_by[at, column] = call
        calls[rows] += 1
        masked[ends.complete(ids, tokens, masked)] = False
    return Filled(ids, filled_by, calls)


# Sampling that may take tokens back (ReMDM, arXiv 2503.00307).


def remask_probability(
    mask_prob: Float[Tensor, ""], next_mask_prob: Float[Tensor, ""], remasking: float
) -> Float[Tensor, ""]:
    """σ = min(η, (1 − α_s) / α_t): as often as asked for, as far as the marginals allow ("cap", section 4.1)."""
    return torch.clamp(next_mask_prob / (1 - mask_prob).clamp(min=torch.finfo(mask_prob.dtype).tiny), max=remasking)


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
    """Walk down a grid of 1 − α from 1 to 0; a filled slot is masked again with probability σ, a given token never.

    A mask is filled with probability (α_s − (1 − σ) α_t) / (1 − α_t), which keeps each step's share of masks what it is
    without remasking (eq. 5). The network runs only for rows in which this step fills something.
    """
    ids, masked = ids.clone(), slots.masked.clone()
    filled_by = torch.full_like(ids, -1)
    calls, trace = ids.new_zeros(len(ids)), recording()
    for step in range(len(grid) - 1):
        mask_prob, next_mask_prob = grid[step], grid[step + 1]
        sigma = remask_probability(mask_prob, next_mask_prob, remasking)
        fill = (1 - next_mask_prob - (1 - sigma) * (1 - mask_prob)) / mask_prob
        step_seeds = derive(seeds, step)
        u = uniform(step_seeds[:, None], Stream.REMASK, slots.counters)
        taken_back = slots.masked & ~masked & (u < sigma)
        chosen = masked & (u < fill) if step < len(grid) - 2 else masked.clone()
        rows = chosen.any(dim=1).nonzero().squeeze(1)
        if len(rows):
            row, column = chosen[rows].nonzero(as_tuple=True)
            at = rows[row]
            features = network.features(ids[rows], rows, mask_prob.expand(len(rows)), row * ids.shape[1] + column)
            allowed = draw.allowed(network.logits(features), slots.before_given_token[at, column])
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

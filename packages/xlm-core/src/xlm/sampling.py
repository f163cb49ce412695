"""Draws tokens from logits: filters, Gumbel-max in float64, confidence scores, random choice of positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

Confidence = Literal["top_prob", "prob_diff", "entropy"]
CONFIDENCES: tuple[Confidence, ...] = ("top_prob", "prob_diff", "entropy")

# Rows whose noise is drawn at once: bounds the float64 copy of the logits to about 128 MB.
_MAX_NOISE_ELEMENTS = 2**24


def sampling_dtype(device: torch.device) -> torch.dtype:
    """float64 wherever the device has it (all but MPS).

    float32 Gumbel noise has a short tail and acts as a lower temperature (arXiv 2409.02908, section 4).
    """
    return torch.float32 if device.type == "mps" else torch.float64


def _exponential(like: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.empty_like(like, dtype=sampling_dtype(like.device), memory_format=torch.contiguous_format)
    # Never exactly zero, so that neither its logarithm nor a division by it is infinite.
    return noise.exponential_(generator=generator).clamp_(min=torch.finfo(noise.dtype).tiny)


def add_gumbel_noise(
    logits: Float[Tensor, "*batch vocab"],
    temperature: float = 1.0,
    noise_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch vocab"]:
    """logits / temperature + noise_scale · Gumbel(0, 1) in float64; its argmax is a draw from the softmax."""
    if not temperature > 0:  # nan neither
        raise ValueError(f"temperature must be above 0, got {temperature}; 0 means greedy: take the argmax")
    gumbel = _exponential(logits, generator).log_().neg_()
    return torch.add(logits.to(gumbel.dtype) / temperature, gumbel, alpha=noise_scale)


def add_exp_1_noise(
    probs: Float[Tensor, "*batch vocab"],
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch vocab"]:
    """probs^(1/temperature) / Exp(1) in float64; its argmax is a draw from the unnormalised probabilities."""
    if not temperature > 0:  # nan neither
        raise ValueError(f"temperature must be above 0, got {temperature}; 0 means greedy: take the argmax")
    noise = _exponential(probs, generator)
    weights = probs.to(noise.dtype)
    return (weights if temperature == 1.0 else weights.pow(1.0 / temperature)) / noise


def sample_categorical(
    probs: Float[Tensor, "*batch vocab"], generator: torch.Generator | None = None
) -> Integer[Tensor, "*batch"]:
    """One index per row of unnormalised probabilities."""
    return add_exp_1_noise(probs, generator=generator).argmax(dim=-1)


def sample_from_logits(
    logits: Float[Tensor, "*batch vocab"],
    temperature: float = 1.0,
    noise_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Integer[Tensor, "*batch"]:
    """One index per row by Gumbel-max; temperature 0 or noise_scale 0 is the argmax."""
    if temperature == 0 or noise_scale == 0:
        return logits.argmax(dim=-1)
    rows = logits.reshape(-1, logits.shape[-1])
    chunks = rows.split(max(1, _MAX_NOISE_ELEMENTS // max(1, rows.shape[-1])))
    drawn = [add_gumbel_noise(chunk, temperature, noise_scale, generator).argmax(dim=-1) for chunk in chunks]
    return torch.cat(drawn).reshape(logits.shape[:-1])


def keep_top_k(logits: Float[Tensor, "*batch vocab"], k: int) -> Float[Tensor, "*batch vocab"]:
    """All but the k largest become −inf: exactly k stay, whatever the ties; k = 1 keeps the argmax."""
    if k < 1:
        raise ValueError(f"top_k must be at least 1, got {k}")
    if k >= logits.shape[-1]:
        return logits
    # argmax and topk may break ties differently, and top-1 has to be greedy.
    kept = logits.argmax(dim=-1, keepdim=True) if k == 1 else logits.topk(k, dim=-1).indices
    return torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))


def keep_top_p(logits: Float[Tensor, "*batch vocab"], p: float) -> Float[Tensor, "*batch vocab"]:
    """Nucleus (arXiv 1904.09751): the fewest tokens that reach probability p, the crossing one included."""
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {p}")
    if p == 1:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.to(sampling_dtype(logits.device)).softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs
    # The first has nothing before it; said apart, because rounding may say otherwise.
    dropped = (before >= p).index_fill(-1, torch.zeros(1, dtype=torch.long, device=logits.device), False)
    return torch.empty_like(logits).scatter(-1, index, ordered.masked_fill(dropped, -torch.inf))


def _nucleus(values: Tensor, logits: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """`keep_top_p` of logits at the likeliest ids alone, and in which rows the nucleus lies among these for sure.

    Not if it ends at the smallest value, which an id that is not among them may have, too.
    """
    dtype = sampling_dtype(logits.device)
    ordered, index = values.sort(dim=-1, descending=True, stable=True)
    probs = (ordered.to(dtype) - logits.to(dtype).logsumexp(dim=-1, keepdim=True)).exp()
    dropped = probs.cumsum(dim=-1) - probs >= p
    dropped[:, 0] = False
    complete = dropped.any(dim=-1) & (dropped | (ordered > ordered[:, -1:])).all(dim=-1)
    return torch.empty_like(values).scatter(-1, index, ordered.masked_fill(dropped, -torch.inf)), complete


def keep_min_p(logits: Float[Tensor, "*batch vocab"], min_p: float) -> Float[Tensor, "*batch vocab"]:
    """Tokens with at least min_p times the probability of the most likely one (arXiv 2407.01082)."""
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p must be in [0, 1], got {min_p}")
    if min_p == 0:
        return logits
    floor = logits.amax(dim=-1, keepdim=True) + torch.tensor(min_p, device=logits.device).log()
    return logits.masked_fill(logits < floor, -torch.inf)


def sample_from_top_k(
    k: int,
    logits: Float[Tensor, "*batch vocab"],
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Integer[Tensor, "*batch"]:
    """One index per row among the k largest logits; k comes first for `partial(sample_from_top_k, 5)`."""
    return LogitsSampler(temperature=temperature, top_k=k)(logits, generator)


def sample_from_top_p(
    p: float,
    logits: Float[Tensor, "*batch vocab"],
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Integer[Tensor, "*batch"]:
    """One index per row from the nucleus p of the tempered distribution; ValueError if p is not in (0, 1]."""
    return LogitsSampler(temperature=temperature, top_p=p)(logits, generator)


@dataclass(frozen=True)
class LogitsSampler:
    """Temperature, then top-k, top-p and min-p, each on the logits, then one Gumbel-max draw per row.

    temperature 0 and top_k 1 are both greedy, and draw no noise. None switches a filter off.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:  # nan neither
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}")

    @property
    def greedy(self) -> bool:
        """Whether the argmax is always taken."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def keeps_all(self) -> bool:
        """Whether no filter forbids any token."""
        return not self.greedy and self.top_k is None and self.top_p is None and self.min_p is None

    def filter(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """Tempered logits with −inf wherever a filter forbids the token; greedy keeps the argmax alone."""
        if self.greedy:
            return keep_top_k(logits, 1)
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        return logits if self.min_p is None else keep_min_p(logits, self.min_p)

    def candidates(
        self, logits: Float[Tensor, "rows vocab"], nucleus: int
    ) -> tuple[Float[Tensor, "rows kept"], Integer[Tensor, "rows kept"], Bool[Tensor, " rows"]] | None:
        """What `filter` leaves, without the rest of the vocabulary.

        Args:
            logits: of all ids.
            nucleus: among so many of the likeliest ids a nucleus is looked for, if there is no top-k.

        Returns:
            Tempered logits and ids in ascending order of ids, −inf at ids that a filter forbids, and in which rows
            that is all that `filter` leaves. None where all ids would be candidates.
        """
        num_ids = logits.shape[-1]
        by_k = self.top_k is not None and self.top_k < num_ids
        by_p = self.top_p is not None and self.top_p < 1 and num_ids > 2 * nucleus
        if self.greedy or not (by_k or by_p):
            return None
        if self.temperature != 1:
            logits = logits / self.temperature
        count = self.top_k if by_k and self.top_k is not None else nucleus
        ids = logits.topk(count, dim=-1).indices.sort(dim=-1).values
        values = logits.gather(-1, ids)
        complete = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        if by_k:
            values = values if self.top_p is None else keep_top_p(values, self.top_p)
        elif self.top_p is not None:
            values, complete = _nucleus(values, logits, self.top_p)
        return values if self.min_p is None else keep_min_p(values, self.min_p), ids, complete

    def __call__(
        self, logits: Float[Tensor, "*batch vocab"], generator: torch.Generator | None = None
    ) -> Integer[Tensor, "*batch"]:
        """One token id per row."""
        if self.greedy:
            return logits.argmax(dim=-1)
        return sample_from_logits(self.filter(logits), generator=generator)


def confidence_scores(logits: Float[Tensor, "*batch vocab"], kind: Confidence) -> Float[Tensor, "*batch"]:
    """How sure a prediction is, larger = surer, on a scale without end.

    `top_prob`: log p/(1 − p) of the best probability p. `prob_diff`: the same of the margin between the best two.
    `entropy`: −log of the entropy in nats. They rank as the plain values do; but those are 1 in float32 from a gap of
    about 17 between logits on (the entropy 0 from 104), and these are computed from the logits and stay apart. −inf
    for a margin of 0, inf where one token alone is possible. `confidence_bound` puts a plain value on this scale.
    """
    if kind not in CONFIDENCES:
        raise ValueError(f"Unknown confidence {kind!r}. Choices: {', '.join(CONFIDENCES)}.")
    logits = logits.float()
    best, index = logits.max(dim=-1, keepdim=True)
    others = logits.scatter(-1, index, -torch.inf)
    rest = others.logsumexp(dim=-1)
    best = best.squeeze(-1)
    if kind == "top_prob":
        return best - rest
    if kind == "prob_diff":
        second = others.amax(dim=-1)
        # p₁ − p₂ ∝ exp(best) · (1 − exp(second − best)), and 1 minus that ∝ exp(rest) + exp(second).
        return best + torch.expm1(second - best).neg().log() - torch.logaddexp(rest, second)
    return -_log_entropy(others, best, rest)


def _log_entropy(others: Tensor, best: Tensor, rest: Tensor) -> Tensor:
    """log H, without underflow: H = Σ p · (−log p), each term by its logarithm.

    Args:
        others: (*, V), logits with −inf in the place of the best.
        best: (*), the best logit.
        rest: (*), logsumexp of the others.
    """
    gap = rest - best
    surprise = torch.nn.functional.softplus(gap)  # −log p of the best: log(1 + exp(gap))
    log_probs = others - (best + surprise).unsqueeze(-1)
    terms = log_probs + log_probs.neg().log()
    terms = terms.masked_fill(others == -torch.inf, -torch.inf)  # p · log p is 0 there, not −inf + inf
    # softplus(x) is exp(x) in float32 from −16 down, and its logarithm x, however small.
    own = torch.where(gap < -16, gap, surprise.log()) - surprise
    return torch.logaddexp(terms.logsumexp(dim=-1), own)


def confidence_bound(value: float, kind: Confidence) -> float:
    """A probability, a margin or an entropy in nats on the scale of `confidence_scores`."""
    if kind == "entropy":
        return -math.log(value) if value > 0 else math.inf
    if not 0 < value < 1:
        return math.inf if value >= 1 else -math.inf
    return math.log(value) - math.log1p(-value)


def select_random_indices(
    inp_shape: tuple[int, int] | torch.Size,
    num_unmask: Integer[Tensor, "batch"],
    select_from_mask: Bool[Tensor, "batch length"] | None = None,
    selection_score: Float[Tensor, "batch length"] | None = None,
    temperature: float = 1.0,
    selection_mode: Literal["greedy", "sample"] = "greedy",
    score_mode: Literal["logits", "uprobs"] = "logits",
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch length"]:
    """Exactly num_unmask[i] True in row i, all where the mask allows (all allowed ones, if there are fewer).

    Without a score every subset is equally likely. With one: the largest scores (`greedy`), or a draw without
    replacement (`sample`) by weights exp(score / temperature) for `logits`, score^(1 / temperature) for `uprobs`.
    """
    if selection_mode not in ("greedy", "sample"):
        raise ValueError(f"Unknown selection_mode {selection_mode!r}. Choices: greedy, sample.")
    if score_mode not in ("logits", "uprobs"):
        raise ValueError(f"Unknown score_mode {score_mode!r}. Choices: logits, uprobs.")
    device = num_unmask.device
    if selection_score is None:
        priority = torch.rand(tuple(inp_shape), device=device, dtype=sampling_dtype(device), generator=generator)
    elif selection_mode == "greedy":
        priority = selection_score.to(sampling_dtype(device))
    elif score_mode == "logits":
        priority = add_gumbel_noise(selection_score, temperature, generator=generator)
    else:
        priority = add_exp_1_noise(selection_score, temperature, generator)
    # An allowed −inf must still come before a forbidden position.
    priority = priority.clamp(min=torch.finfo(priority.dtype).min)
    if select_from_mask is not None:
        priority = priority.masked_fill(~select_from_mask, -torch.inf)
    order = priority.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.arange(inp_shape[1], device=device) < num_unmask.unsqueeze(-1)
    selected = torch.zeros(tuple(inp_shape), dtype=torch.bool, device=device).scatter(-1, order, chosen)
    return selected if select_from_mask is None else selected & select_from_mask

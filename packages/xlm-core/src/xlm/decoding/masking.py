"""Masks tokens for training and for bounds: times, rates, and which tokens, each drawn from the row's own stream."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.streams import Stream, uniform
from xlm.modules.attention import positions_from_mask
from xlm.noise import MaskingSchedule
from xlm.sampling import sampling_dtype

IGNORE = -100


class Masked(NamedTuple):
    """Rows of which some tokens are masked.

    `targets` holds the token under each mask, -100 elsewhere; `target_index` says where in the flat (B·L) rows.
    """

    ids: Integer[Tensor, "batch length"]
    targets: Integer[Tensor, "batch length"]
    target_index: Integer[Tensor, " masks"]


def draw_times(
    seeds: Integer[Tensor, " batch"], levels: Float[Tensor, " batch"] | None = None, t_min: float = 0.0
) -> Float[Tensor, " batch"]:
    """A time per row, uniform in (t_min, 1), float64: at its level where levels are given, else from its seed.

    Times of independent seeds are independent; the levels that loaders hand out are spread evenly over any stretch of
    an epoch, which lowers the variance of a batch's loss (arXiv 2107.00630, appendix I.1).
    """
    u = uniform(seeds, Stream.TIME) if levels is None else levels
    return t_min + (1 - t_min) * u


def mask_tokens(
    ids: Integer[Tensor, "batch length"],
    maskable: Bool[Tensor, "batch length"],
    rate: Float[Tensor, " batch"],
    seeds: Integer[Tensor, " batch"],
    mask_token_id: int,
    attention_mask: Bool[Tensor, "batch length"] | None = None,
) -> Masked:
    """Mask each maskable token of row b with probability rate[b]; the draw of a token ignores padding before it."""
    real = torch.ones_like(maskable) if attention_mask is None else attention_mask | maskable
    masked = maskable & (uniform(seeds[:, None], Stream.MASK, positions_from_mask(real)) < rate[:, None])
    return Masked(
        ids=ids.masked_fill(masked, mask_token_id),
        targets=ids.masked_fill(~masked, IGNORE),
        target_index=masked.reshape(-1).nonzero().squeeze(-1),
    )


class StretchedSchedule:
    """A schedule whose α is stretched to run from exactly 1 at t = 0 to exactly 0 at t = 1.

    Sampling starts from masks alone, so a schedule that still keeps a token with probability α(1) = ε is the law of
    another start; stretched, the NELBO misses nothing at either end and is a bound for any ε. With α(0) = 1, as in
    most schedules, the weight −α′/(1 − α) is the schedule's own. arXiv 2406.07524, section 3.
    """

    def __init__(self, schedule: MaskingSchedule) -> None:
        self.schedule = schedule
        ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.start, self.end = float(ends[0]), float(ends[1])

    def rate(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 − α(t): the probability that a token is masked at time t."""
        return (self.start - self.schedule.alpha(t)) / (self.start - self.end)

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """−α′(t) / (1 − α(t)), the NELBO's weight of the masked tokens' loss; infinite at t = 0."""
        return -self.schedule.alpha_prime(t) / (self.start - self.schedule.alpha(t))

    def time(self, rate: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The t at which tokens are masked with probability `rate`."""
        return self.schedule.alpha_inverse(self.start - rate * (self.start - self.end))

    def sigma(self, rate: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """σ at the time of that rate: the condition of the network."""
        return self.schedule.sigma(self.time(rate))

    def grid(self, num_steps: int, device: torch.device) -> Float[Tensor, " points"]:
        """Rates at num_steps + 1 equally spaced times from 1 down to 0; the ends are exact."""
        t = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        grid = self.rate(t)
        grid[0], grid[-1] = 1.0, 0.0
        return grid.to(device, sampling_dtype(device))

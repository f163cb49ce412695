"""The NELBO of masked models as low-variance draws per example, for any network that scores masked tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.masking import IGNORE
from xlm.decoding.streams import Stream, derive, uniform
from xlm.modules.attention import positions_from_mask
from xlm.sampling import widest_float

Method = Literal["counts", "rates"]
# (ids (B, L), rate (B,), index (N,), targets (N,)) → −log p of each target (N,): index is flat, rate is 1 − α.
MaskedNLL = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def nelbo_draws(
    masked_nll: MaskedNLL,
    ids: Integer[Tensor, "batch length"],
    maskable: Bool[Tensor, "batch length"],
    attention_mask: Bool[Tensor, "batch length"],
    seeds: Integer[Tensor, " batch"],
    mask_token_id: int,
    num_samples: int = 1,
    num_points: int = 4,
    method: Method = "counts",
) -> Float[Tensor, "batch samples"]:
    """Independent unbiased draws of each row's NELBO in nats; each is the mean over `num_points` maskings.

    "counts": k masks with k spread evenly over 1 … n, weight n/k, at a rate that has the law of the k-th of n times.
    "rates": the rate of masks spread evenly over (0, 1), antithetically: (u + j/P) mod 1, weight 1/rate.
    Both integrate −α′/(1 − α) · Σ −log p over time exactly, whatever the schedule: the rate is drawn, not t.
    """
    if method not in ("counts", "rates"):
        raise ValueError(f"Unknown method {method!r}. Choices: counts, rates.")
    counters = positions_from_mask(attention_mask | maskable)
    dtype = widest_float(ids.device)
    draws = torch.zeros(len(ids), num_samples, dtype=dtype, device=ids.device)
    for sample in range(num_samples):
        sample_seeds = derive(seeds, sample)
        start = uniform(sample_seeds, Stream.TIME)
        for point in range(num_points):
            even = (start + point / num_points) % 1.0
            times = uniform(derive(sample_seeds, point)[:, None], Stream.MASK, counters)
            if method == "counts":
                masked, rate, weight = _by_count(times, maskable, even)
            else:
                rate, weight = even, 1 / even
                masked = maskable & (times < rate[:, None])
            draws[:, sample] += weight * _summed_nll(masked_nll, ids, masked, rate, mask_token_id) / num_points
    return draws


def _by_count(times: Tensor, maskable: Tensor, even: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The k earliest of each row's n tokens, the k-th one's time as the rate, and n/k."""
    n = maskable.sum(dim=1)
    k = (even * n).long() + 1
    ordered = times.masked_fill(~maskable, 2.0).sort(dim=1).values
    last = (k - 1).clamp(max=max(0, ordered.shape[1] - 1))
    rate = ordered.gather(1, last[:, None]).squeeze(1)
    masked = maskable & (times <= rate[:, None])
    return masked, rate.clamp(max=1.0), n.to(times.dtype) / k


def _summed_nll(masked_nll: MaskedNLL, ids: Tensor, masked: Tensor, rate: Tensor, mask_token_id: int) -> Tensor:
    """Σ −log p over the masked tokens of each row, (B,)."""
    index = masked.reshape(-1).nonzero().squeeze(-1)
    targets = ids.reshape(-1)[index]
    nll = masked_nll(ids.masked_fill(masked, mask_token_id), rate, index, targets)
    sums = torch.zeros(len(ids), dtype=rate.dtype, device=ids.device)
    return sums.index_add_(0, index // ids.shape[1], nll.to(rate.dtype))


def clean_ids(
    input_ids: Integer[Tensor, "batch length"], target_ids: Integer[Tensor, "batch length"]
) -> Integer[Tensor, "batch length"]:
    """A training batch's rows before masking."""
    return torch.where(target_ids != IGNORE, target_ids, input_ids)


def coded_ids(
    input_ids: Integer[Tensor, "batch length"],
    target_ids: Integer[Tensor, "batch length"],
    maskable: Bool[Tensor, "batch length"],
) -> Integer[Tensor, "batch length"]:
    """A training batch's maskable tokens before masking, -100 elsewhere: what a bound is about."""
    return clean_ids(input_ids, target_ids).masked_fill(~maskable, IGNORE)

"""The NELBO of masked models as low-variance draws per example, for any network that scores masked tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.data.collate import IGNORE
from xlm.decoding.counter_rng import Stream, derive, uniform
from xlm.masked.text_length import counted, free, length_nll
from xlm.masked.unmasking import ranks
from xlm.modules.attention import positions_from_mask
from xlm.protocols import Tokenizer
from xlm.sampling import sampling_dtype

Method = Literal["counts", "rates"]
# (ids (B, L), mask_prob (B,), index (N,), targets (N,)) → −log p of each target (N,): index is flat.
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
    unpaid: Bool[Tensor, "batch length"] | None = None,
    hidden: Bool[Tensor, "batch length"] | None = None,
) -> Float[Tensor, "batch samples"]:
    """Independent unbiased draws of each row's NELBO in nats; each is the mean over `num_points` maskings.

    "counts": k masks with k spread evenly over 1 … n, weight n/k, at 1 − α with the law of the k-th of n times.
    Rows with at most `num_points` sets of masks (2^n − 1) go through all of them instead, which is exact but for
    1 − α. "rates": 1 − α spread evenly over (0, 1), antithetically: (u + j/P) mod 1, weight 1/(1 − α). Both integrate
    −α′/(1 − α) · Σ −log p over time exactly, whatever the schedule: 1 − α is drawn, not t.

    Args:
        unpaid: maskable tokens that cost nothing.
        hidden: further positions, which `ids` shows as masks and nothing fills; they count in 1 − α of "counts".
    """
    if method not in ("counts", "rates"):
        raise ValueError(f"Unknown method {method!r}. Choices: counts, rates.")
    counters = positions_from_mask(attention_mask | maskable)
    dtype = sampling_dtype(ids.device)
    draws = torch.zeros(len(ids), num_samples, dtype=dtype, device=ids.device)
    for sample in range(num_samples):
        sample_seeds = derive(seeds, sample)
        start = uniform(sample_seeds, Stream.TIME)
        for point in range(num_points):
            even = (start + point / num_points) % 1.0
            times = uniform(derive(sample_seeds, point)[:, None], Stream.MASK, counters)
            if method == "counts":
                masked, mask_prob, weight = _by_count(times, maskable, hidden, even, point, num_points)
            else:
                mask_prob, weight = even, 1 / even
                masked = maskable & (times < mask_prob[:, None])
            draws[:, sample] += (
                weight * _summed_nll(masked_nll, ids, masked, mask_prob, mask_token_id, unpaid) / num_points
            )
    return draws


def _by_count(
    times: Tensor, maskable: Tensor, hidden: Tensor | None, even: Tensor, point: int, num_points: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The k earliest of each row's n tokens, as 1 − α the latest time of all that is then masked, and n/k.

    Where a row has few sets of masks, the set with the number of this point, with its weight in the NELBO times the
    number of points.
    """
    n = maskable.sum(dim=1)
    k = (even * n).long() + 1
    masked = maskable & (ranks(1 - times, maskable) < k[:, None])
    weight = n.to(times.dtype) / k
    num_sets = 2 ** n.clamp(max=62) - 1  # without overflow
    few = num_sets <= num_points
    if bool(few.any()):
        place = maskable.long().cumsum(dim=1) - 1  # among the row's maskable tokens
        in_set = (((point + 1) >> place.clamp(0, 62)) & 1).bool()
        of_set = maskable & in_set & (point < num_sets)[:, None]
        size = of_set.sum(dim=1)
        share = num_points * _weight_of_a_set(size.to(times.dtype), n.to(times.dtype))
        k = torch.where(few, size, k)
        masked = torch.where(few[:, None], of_set, masked)
        weight = torch.where(few, share, weight)
    everything = maskable if hidden is None else maskable | hidden
    num_masks = k if hidden is None else k + hidden.sum(dim=1)
    ordered = times.masked_fill(~everything, 2.0).sort(dim=1).values
    last = (num_masks - 1).clamp(0, max(0, ordered.shape[1] - 1))
    return masked, ordered.gather(1, last[:, None]).squeeze(1).clamp(max=1.0), weight


def _weight_of_a_set(size: Tensor, n: Tensor) -> Tensor:
    """B(k, n − k + 1) = (k − 1)! (n − k)! / n!, what the NELBO weights a set of k masks with; 0 for no mask."""
    log_weight = torch.lgamma(size) + torch.lgamma(n - size + 1) - torch.lgamma(n + 1)
    return torch.where(size > 0, log_weight.exp(), 0.0)


def _summed_nll(
    masked_nll: MaskedNLL, ids: Tensor, masked: Tensor, mask_prob: Tensor, mask_token_id: int, unpaid: Tensor | None
) -> Tensor:
    """Σ −log p over the masked tokens of each row that are paid for, (B,)."""
    paid = masked if unpaid is None else masked & ~unpaid
    index = paid.reshape(-1).nonzero().squeeze(-1)
    targets = ids.reshape(-1)[index]
    nll = masked_nll(ids.masked_fill(masked, mask_token_id), mask_prob, index, targets)
    sums = torch.zeros(len(ids), dtype=mask_prob.dtype, device=ids.device)
    return sums.index_add_(0, index // ids.shape[1], nll.to(mask_prob.dtype))


def clean_ids(batch: Mapping[str, Any], pad_token_id: int) -> Integer[Tensor, "batch length"]:
    """A training batch's rows before masking."""
    ids: Tensor = torch.where(batch["target_ids"] != IGNORE, batch["target_ids"], batch["input_ids"])
    padding = free(batch)
    return ids if padding is None else ids.masked_fill(padding, pad_token_id)


def coded_ids(batch: Mapping[str, Any], pad_token_id: int) -> Integer[Tensor, "batch length"]:
    """The real tokens that may be masked in a training batch, as they were before; -100 elsewhere."""
    coded = counted(batch["maskable"], batch["num_tokens"])
    return clean_ids(batch, pad_token_id).masked_fill(~coded, IGNORE)


def batch_bound(
    masked_nll: MaskedNLL,
    batch: Mapping[str, Any],
    network: Any,
    tokenizer: Tokenizer,
    num_samples: int,
    num_points: int,
    method: Method,
) -> Float[Tensor, "batch samples"]:
    """`nelbo_draws` of a training batch; where the length is modelled, −log p(N) is added."""
    draws = nelbo_draws(
        masked_nll,
        clean_ids(batch, tokenizer.pad_token_id),
        batch["maskable"],
        batch["attention_mask"].bool(),
        batch["noise_seed"],
        tokenizer.mask_token_id,
        num_samples,
        num_points,
        method,
        free(batch),
        batch.get("hidden"),
    )
    of_length = length_nll(network, batch)
    return draws if of_length is None else draws + of_length[:, None].to(draws.dtype)

"""The softmax over gaps × vocabulary, without its logits ever all being there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Up to this many logits at once (64 MB in float32).
CHUNK_ELEMENTS = 2**24


def wide_logits(
    hidden: Float[Tensor, "rows d_model"],
    weight: Float[Tensor, "vocab d_model"],
    exclude_ids: Sequence[int] | Tensor = (),
    temperature: float = 1.0,
) -> Float[Tensor, "rows vocab"]:
    """`hidden @ weightᵀ / temperature` in float32 (or float64), −inf at `exclude_ids`."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1:
        logits = logits / temperature
    if len(exclude_ids):
        # In place: the map above has made these logits, and its gradient doesn't need them.
        logits.index_fill_(1, torch.as_tensor(exclude_ids, device=logits.device), -torch.inf)
    return logits


def linear_logsumexp(
    hidden: Float[Tensor, "rows d_model"],
    weight: Float[Tensor, "vocab d_model"],
    exclude_ids: Sequence[int] | Tensor = (),
    temperature: float = 1.0,
    max_rows: int | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Float[Tensor, " rows"]:
    """logsumexp over the vocabulary of each row's logits, exact, gradients too.

    With more than `chunk_elements` logits they are made chunk by chunk, and once more for the gradient.
    max_rows: a bound on the rows that doesn't change from call to call, so that a compiled graph has a fixed
    number of chunks; None: their number now.
    """

    def part(rows: Tensor, weight: Tensor) -> Tensor:
        return wide_logits(rows, weight, exclude_ids, temperature).logsumexp(dim=-1)

    num_chunks = -(-(max_rows or hidden.shape[0]) * weight.shape[0] // chunk_elements)
    if num_chunks <= 1:
        return part(hidden, weight)
    chunks = hidden.tensor_split(num_chunks)
    if not torch.is_grad_enabled():
        return torch.cat([part(rows, weight) for rows in chunks])
    # Backwards, checkpointing computes a chunk's logits again: those of one chunk are all that exist at a time.
    parts = [checkpoint(part, rows, weight, use_reentrant=False, preserve_rng_state=False) for rows in chunks]
    return torch.cat(parts)


def insertion_cross_entropy(
    hidden: Float[Tensor, "batch length d_model"],
    weight: Float[Tensor, "vocab d_model"],
    slot_index: Integer[Tensor, " slots"],
    target_slots: Integer[Tensor, "batch hits"],
    target_tokens: Integer[Tensor, "batch hits"],
    target_counts: Integer[Tensor, "batch hits"],
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Float[Tensor, " batch"]:
    """CE_b = logsumexp over open gaps and tokens of the logits z − Σ_j c_j/n · z_j over the hits; 0 where n = 0.

    That is the cross-entropy of p[gap, token] = c/n with one softmax over all open (gap, token), from the logits of
    the hits alone. `hidden` is normalised already; `slot_index` flattens (B, L).
    """
    B, L, _ = hidden.shape
    lse = linear_logsumexp(hidden.reshape(B * L, -1)[slot_index], weight, max_rows=B * L, chunk_elements=chunk_elements)
    # A number rather than −inf: a row without any open gap then has no gradient instead of a NaN.
    by_column = lse.new_full((B * L,), torch.finfo(lse.dtype).min).index_copy(0, slot_index, lse)
    log_norm = by_column.view(B, L).logsumexp(dim=-1)
    rows = torch.arange(B, device=hidden.device)[:, None]
    hit_logits = (hidden[rows, target_slots] * weight[target_tokens]).sum(dim=-1)
    n = target_counts.sum(dim=-1)
    share = target_counts.to(lse.dtype) / n.clamp(min=1)[:, None]
    expected = (share * hit_logits).sum(dim=-1)
    return torch.where(n > 0, log_norm - expected, 0)

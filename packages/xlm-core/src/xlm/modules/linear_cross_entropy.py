"""Output layer and cross-entropy in one, by chunks of rows, so that the (N, V) logits never all exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from xlm.modules.head_logits import head_logits

Reduction = Literal["mean", "sum", "none"]

# Logits alive at once, and the rows below which accumulating the weight's gradient costs more than it saves.
# On a CPU a chunk that stays in its cache is fastest; an accelerator wants larger products.
_CPU_CHUNK = (2**20, 128)
_ACCELERATOR_CHUNK = (2**26, 512)


def linear_cross_entropy(
    hidden: Float[Tensor, "rows d_model"],
    weight: Float[Tensor, "vocab d_model"],
    bias: Float[Tensor, "vocab"] | None,
    targets: Integer[Tensor, "rows"],
    ignore_index: int = -100,
    chunk_rows: int | None = None,
    reduction: Reduction = "mean",
    exclude_ids: Sequence[int] = (),
) -> Float[Tensor, "*out"]:
    """Cross-entropy of `hidden @ weightᵀ + bias` with `targets`, exact, gradients too; logits in float32.

    Rows whose target is ignore_index count for nothing; the mean is over the others, 0 if there are none.
    exclude_ids have probability 0 (SUBS: the mask token); they must not be targets. chunk_rows None: a size that
    suits the device, and everything at once while there are fewer logits than in a chunk.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"Unknown reduction {reduction!r}. Choices: mean, sum, none.")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    elements, min_rows = _CPU_CHUNK if hidden.device.type == "cpu" else _ACCELERATOR_CHUNK
    if chunk_rows is None and hidden.shape[0] * weight.shape[0] <= elements:
        logits = head_logits(hidden, weight, bias, exclude_ids)
        losses = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
        total = losses if reduction == "none" else losses.sum()
    else:
        rows = chunk_rows or max(min_rows, elements // weight.shape[0])
        hidden, weight, bias = _autocast(hidden, weight, bias)
        differentiable = (hidden, weight) if bias is None else (hidden, weight, bias)
        needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in differentiable)
        # Torch takes a tenth of a second to register these operators, and small vocabularies need none.
        from xlm.modules.chunked_cross_entropy import row_losses, summed_loss

        op = row_losses if reduction == "none" else summed_loss
        total = op(hidden, weight, bias, targets, ignore_index, rows, list(exclude_ids), needs_grad)[0]
    if reduction == "mean":
        return total / (targets != ignore_index).sum().clamp(min=1)
    return total


def _autocast(*tensors: Tensor | None) -> Any:
    """What autocast would make of a linear map's arguments; the casts carry the gradients back."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None else t.to(dtype) for t in tensors)

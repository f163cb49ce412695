"""Logits of an output layer, wide enough for a softmax over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, exclude_ids: Sequence[int]) -> Tensor:
    """`hidden @ weightᵀ + bias` in float32 (or float64), −inf at exclude_ids."""
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    for token in exclude_ids:
        logits[:, token] = -torch.inf
    return logits

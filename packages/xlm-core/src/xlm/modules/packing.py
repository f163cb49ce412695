"""Batches without their padding: all layers but attention see the real tokens of a batch as one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor
from torch.nn.functional import pad

# The key of a batch whose padding is not computed: its real tokens in the flattened (B·L) positions.
TOKEN_INDEX = "token_index"

# What the calls for one more row cost, in products of an element of a query and of a key; measured on one thread.
_PRODUCTS_OF_A_CALL = 2**16


class _Take(torch.autograd.Function):
    """Entries of a dimension, each at most once: the gradient is put back instead of added up, which is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, index: Tensor) -> Tensor:
        ctx.dim, ctx.size = dim, x.shape[dim]
        ctx.save_for_backward(index)
        return x.index_select(dim, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return _Put.apply(grad, ctx.dim, index, ctx.size), None, None


class _Put(torch.autograd.Function):
    """The inverse of `_Take`, into zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, index: Tensor, size: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(index)
        shape = list(x.shape)
        shape[dim] = size
        return x.new_zeros(shape).index_copy_(dim, index, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return _Take.apply(grad, ctx.dim, index), None, None, None


def take(x: Shaped[Tensor, "*shape"], dim: int, index: Integer[Tensor, " taken"]) -> Shaped[Tensor, "*taken"]:
    """Entries of a dimension, each at most once; the gradient is put back instead of added up."""
    found: Tensor = _Take.apply(x, dim, index)
    return found


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the T real tokens of a padded batch (B, L) are, in reading order.

    Packed tensors have one row of T tokens. Nothing crosses rows: attention runs row by row, or unpacks queries, keys
    and values, so every row is a document of its own, with its own positions.
    """

    num_rows: int
    length: int
    # Flat positions (B·L) of the tokens.
    index: Integer[Tensor, " tokens"]

    @classmethod
    def of(
        cls, attention_mask: Bool[Tensor, "batch length"] | None, token_index: Integer[Tensor, " tokens"] | None
    ) -> Packing | None:
        """The packing of a batch; None if it isn't to be packed, or has no padding."""
        if attention_mask is None or token_index is None or len(token_index) == attention_mask.numel():
            return None
        num_rows, length = attention_mask.shape
        return cls(num_rows, length, token_index)

    def pack(self, x: Shaped[Tensor, "batch length *rest"]) -> Shaped[Tensor, "1 tokens *rest"]:
        """The real tokens of every row."""
        return take(x.flatten(0, 1), 0, self.index).unsqueeze(0)

    def unpack(self, x: Float[Tensor, "1 *heads tokens width"]) -> Float[Tensor, "batch *heads length width"]:
        """The padded batch, zeros for padding; tokens are the second last dimension."""
        flat: Tensor = _Put.apply(x, x.ndim - 2, self.index, self.num_rows * self.length)
        return flat.squeeze(0).unflatten(-2, (self.num_rows, self.length)).movedim(-3, 0)

    def positions(self, padded: Integer[Tensor, "batch length"] | None) -> Integer[Tensor, "1 tokens"]:
        """Positions of the padded batch; None counts the tokens of each row from 0."""
        if padded is not None:
            return self.pack(padded)
        rows = self.index // self.length
        return (torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)).unsqueeze(0)

    def spread(self, per_row: Float[Tensor, "batch width"]) -> Float[Tensor, "1 tokens width"]:
        """What belongs to a row, at each of its tokens."""
        return per_row.index_select(0, self.index // self.length).unsqueeze(0)

    def lengths(self, width: int) -> list[int] | None:
        """The tokens of each row that has any, if attention of this width should run row by row; None for all at once.

        Row by row it computes no padding, but has more calls. On the CPU only: elsewhere the lengths would wait for the
        device, and a compiled graph can't have as many calls as there are rows.
        """
        if self.index.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        saved = self.num_rows * self.length**2 - sum(n * n for n in self._lengths)
        return self._lengths if saved * width >= _PRODUCTS_OF_A_CALL * len(self._lengths) else None

    @cached_property
    def _lengths(self) -> list[int]:
        return [n for n in torch.bincount(self.index // self.length).tolist() if n]

    def neighbours(self) -> tuple[Bool[Tensor, "1 tokens"], Bool[Tensor, "1 tokens"]]:
        """Whether the token before each token, and the one behind it, stands beside it in the same row."""
        index = self.index
        beside = (index[1:] - index[:-1] == 1) & (index[1:] % self.length != 0)
        return pad(beside, (1, 0)).unsqueeze(0), pad(beside, (0, 1)).unsqueeze(0)


def packed(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The argument `token_index` of a network for a packed batch, or no argument."""
    return {TOKEN_INDEX: batch[TOKEN_INDEX]} if TOKEN_INDEX in batch else {}

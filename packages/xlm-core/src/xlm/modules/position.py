"""Rotary position embedding, half-split form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn


class _Rotation(torch.autograd.Function):
    """`_rotated` with its gradient, which is rotated back: nothing of x is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(grad, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(first · cos − second · sin, second · cos + first · sin) in three passes, in the memory order of x.

    Args:
        x: (…, dim), its halves first and second.
        cos, sin: (…, dim/2), float32 or float64; the result is cast back to the type of x.
    """
    first, second = x.chunk(2, dim=-1)
    # x may be bfloat16: its products with the float32 tables are float32.
    out = x.unflatten(-1, (2, -1)) * cos.unsqueeze(-2)
    out.select(-2, 0).addcmul_(second, sin, value=-1)
    out.select(-2, 1).addcmul_(first, sin)
    return out.flatten(-2).to(x.dtype)


class _Lookup:
    """cos and sin of positions, for all layers that are given the same tensor of them."""

    def __init__(self, positions: Tensor, cos: Tensor, sin: Tensor) -> None:
        self.positions, self.version = positions, _version(positions)
        self.cos, self.sin = cos, sin

    def is_of(self, positions: Tensor) -> bool:
        """Whether these are the same positions, unchanged."""
        return self.positions is positions and self.version == _version(positions) is not None


def _version(x: Tensor) -> int | None:
    """How often a tensor was changed in place; None for an inference tensor, which doesn't count that."""
    return None if x.is_inference() else x._version


class RotaryEmbedding(nn.Module):
    """Rotates pairs (x_j, x_{j + dim/2}) by position · max_frequency · base^(−2j/dim) (arXiv 2104.09864).

    The paper has base 10000 and max_frequency 1. For sequences of a few dozen tokens most of those frequencies turn by
    nothing; a smaller base spreads them over what there is. With max_frequency π the fastest pair tells odd from even
    places, which no slower one does.

    Tables for cache_size + 1 positions are made once and grow when a longer sequence comes. They stay in
    float32 (or float64) whatever the model is cast to; the rotation happens in that type, then is cast back.
    What was looked up for the last positions is kept, since all layers of a stack are given the same.
    """

    inv_freq: Tensor
    sin: Tensor
    cos: Tensor

    def __init__(
        self,
        dim: int,
        head_first: bool = True,
        cache_size: int = 1024,
        base: float = 10000.0,
        max_frequency: float = 1.0,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"rotary embedding needs an even dimension, got {dim}")
        if base <= 0 or max_frequency <= 0 or cache_size < 1:
            raise ValueError(
                "rotary base, max_frequency and cache_size (max_length) must be above 0, "
                f"got {base}, {max_frequency} and {cache_size}"
            )
        self.dim = dim
        self.base = base
        self.max_frequency = max_frequency
        self.head_first = head_first
        self.cache_size = cache_size
        self.register_buffer("inv_freq", torch.empty(dim // 2))
        self.register_buffer("sin", torch.empty(0), persistent=False)
        self.register_buffer("cos", torch.empty(0), persistent=False)
        # Tables for longer sequences, apart from the buffers: DDP broadcasts those, so their sizes must not depend
        # on what a rank has seen.
        self._grown: tuple[Tensor, Tensor] | None = None
        self._last: _Lookup | None = None
        self._reset()

    def _reset(self) -> None:
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float64, device="cpu") / self.dim
        self.inv_freq = (self.max_frequency * self.base**-exponents).to(self.inv_freq.device, torch.float32)
        self._rebuild()

    def _rebuild(self) -> None:
        self._grown = self._last = None
        self.cos, self.sin = self._new_tables(self.cache_size + 1)

    def _new_tables(self, num_positions: int) -> tuple[Tensor, Tensor]:
        # Tables that grow during validation serve training too, where inference tensors are refused.
        with torch.inference_mode(False):
            return self._angles(torch.arange(num_positions, device=self.inv_freq.device))

    def _tables(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin for at least that many positions."""
        if num_positions <= self.cos.shape[0]:
            return self.cos, self.sin
        if torch.compiler.is_compiling():  # a graph can't keep what it makes
            return self._angles(torch.arange(num_positions, device=self.inv_freq.device))
        if self._grown is None or self._grown[0].shape[0] < num_positions:
            self._grown = self._new_tables(max(num_positions, 2 * self.cos.shape[0]))
        return self._grown

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.unsqueeze(-1).to(self.inv_freq.dtype) * self.inv_freq
        return angles.cos(), angles.sin()

    def tables_at(
        self, positions: Integer[Tensor, "*batch length"]
    ) -> tuple[Float[Tensor, "*batch length half"], Float[Tensor, "*batch length half"]]:
        """cos and sin of the angles of positions, for whoever turns vectors on its own."""
        return self._lookup(positions, 0)

    def _lookup(self, positions: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, (L, dim/2) or (B, L, dim/2)."""
        if positions is None:
            cos, sin = self._tables(length)
            return cos[:length], sin[:length]
        if torch.compiler.is_compiling():
            return self._angles(positions)
        if self._last is None or not self._last.is_of(positions):
            self._last = _Lookup(positions, *self._lookup_anew(positions))
        return self._last.cos, self._last.sin

    @torch.inference_mode(False)  # as for the tables: what is looked up in validation may serve training
    def _lookup_anew(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        if positions.device.type != "cpu" or not positions.numel():
            # Comparing the largest position with the table would wait for the device; computing costs less.
            return self._angles(positions)
        low, high = (int(bound) for bound in positions.aminmax())
        if low < 0:
            return self._angles(positions)
        cos, sin = self._tables(high + 1)
        return cos[positions], sin[positions]

    def forward(
        self, x: Float[Tensor, "batch a b dim"], positions: Integer[Tensor, "*batch length"] | None = None
    ) -> Float[Tensor, "batch a b dim"]:
        """x (B, H, L, dim) if head_first, else (B, L, H, dim); positions (B, L), (L,), None = 0..L−1."""
        cos, sin = self._lookup(positions, x.shape[2 if self.head_first else 1])
        head_axis = -3 if self.head_first else -2
        cos, sin = cos.unsqueeze(head_axis), sin.unsqueeze(head_axis)
        if torch.compiler.is_compiling():  # which fuses the plain form better
            first, second = x.chunk(2, dim=-1)
            return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
        if torch.is_grad_enabled() and x.requires_grad:
            rotated: Tensor = _Rotation.apply(x, cos, sin)
            return rotated
        return _rotated(x, cos, sin)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> RotaryEmbedding:
        exact = self.inv_freq
        super()._apply(fn, recurse)
        if exact.is_meta:
            if not self.inv_freq.is_meta:
                self._reset()  # meta tensors come out empty
        elif self.inv_freq.dtype not in (torch.float32, torch.float64):
            self.inv_freq = exact.to(self.inv_freq.device)  # bfloat16 would spoil the angles
            self._rebuild()
        else:
            self._grown = self._last = None
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Weights from elsewhere may lack the frequencies: they follow from `dim`.
        state_dict.setdefault(prefix + "inv_freq", self.inv_freq)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._rebuild()

"""Floating-point operations of a training step, and the peak of the device, for model FLOPs utilisation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
# Operators with two factors, by the places of these among the arguments.
_PRODUCTS = {_aten.mm: (0, 1), _aten.addmm: (1, 2), _aten.bmm: (0, 1), _aten.baddbmm: (1, 2), _aten.convolution: (0, 1)}
_ATTENTION = "_scaled_dot_product_"
# The output layer and its loss, which these compute together: hidden states (rows × d) and weights (vocabulary × d).
_HEADS = ("xlm::summed_linear_cross_entropy", "xlm::linear_cross_entropy_rows")


@dataclass(frozen=True)
class Shape:
    """Of a batch, or of several: `positions` (padding among them), and `pairs`, Σ rows · length²."""

    positions: int = 0
    pairs: int = 0

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, Any]]) -> Shape:
        """That of a batch's dicts of tensors."""
        ids = [part["input_ids"] for part in parts]
        return cls(sum(x.numel() for x in ids), sum(x.numel() * x.shape[-1] for x in ids))

    def __add__(self, other: Shape) -> Shape:
        return Shape(self.positions + other.positions, self.pairs + other.pairs)


@dataclass(frozen=True)
class StepFlops:
    """Operations of forward and backward: `per_position`, and `per_pair` of positions that attention compares."""

    per_position: float
    per_pair: float

    def of(self, shape: Shape) -> float:
        """Operations for batches of that shape, if as large a share of their positions carries loss."""
        return self.per_position * shape.positions + self.per_pair * shape.pairs


class FlopTally(TorchDispatchMode):
    """Counts what a training step needs, backward included, from the operators of its forward pass alone.

    A product of an m × k with a k × n matrix is 2mkn operations, and as many again in backward for each factor that
    has a gradient: 6 for each weight and position. Attention is a product for the scores and one for the values,
    4 · B · H · queries · keys · d_head, with twice that in backward; what a causal mask hides counts, as is the custom
    (arXiv 2204.02311, appendix B). The output layer counts for the rows that carry loss. Element-wise operations,
    the optimizer, and whatever is computed a second time to save memory are left out.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.matmul = 0.0
        self.attention = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = getattr(func, "_overloadpacket", None)
        if packet in _PRODUCTS:
            factors = [args[place] for place in _PRODUCTS[packet]]
            self.matmul += flop_registry[packet](*args, **kwargs, out_val=out) * _times(factors)
        elif (name := str(getattr(packet, "_qualified_op_name", ""))) in _HEADS:
            hidden, weight = args[:2]
            self.matmul += 2 * hidden.numel() * weight.shape[0] * _times((hidden, weight))
        elif name.startswith(f"aten::{_ATTENTION}") and not name.endswith("_backward"):
            q, k, v = args[:3]
            forward = 2 * math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
            self.attention += forward * _times((q, k))
        return out

    def per_batch(self, shape: Shape) -> StepFlops | None:
        """What was counted, for batches like the one of that shape; None if nothing was."""
        if not self.matmul or not shape.positions:
            return None
        return StepFlops(self.matmul / shape.positions, self.attention / shape.pairs)


def _times(factors: Sequence[Tensor]) -> int:
    """How often a product is computed: once, and in backward once for each factor with a gradient."""
    return 1 + sum(factor.requires_grad for factor in factors) if torch.is_grad_enabled() else 1


class FirstForward:
    """Counts one forward pass, the first after `begin`; `flops` is known once it has ended and told its shape."""

    def __init__(self) -> None:
        self.flops: StepFlops | None = None
        self._tally: FlopTally | None = None
        self._is_open = False
        self._is_done = False

    def begin(self) -> None:
        """Start counting, unless a pass has been counted already."""
        if not self._is_done and not self._is_open:
            self._tally, self._is_open = FlopTally(), True
            self._tally.__enter__()

    def end(self) -> None:
        """Stop counting; more often does no harm."""
        if self._is_open and self._tally is not None:
            self._is_open, self._is_done = False, True
            self._tally.__exit__(None, None, None)

    def settle(self, shape: Shape) -> None:
        """Say what the batch was that has been counted."""
        self.end()
        if self._tally is not None:
            self.flops, self._tally = self._tally.per_batch(shape), None


# Matrices large enough to be bound by arithmetic, and small enough to be multiplied several times in the budget.
_SIZES = {"cuda": 4096}
_SIZE = 768
_MOST = 50


def matmul_dtype(precision: str) -> torch.dtype:
    """What matrix products are computed in under one of Lightning's precisions."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.25) -> float:
    """Operations per second of the fastest of several products of square matrices, timed for about `seconds`.

    With the threads that this process has now, so on a CPU it is the peak of those and not of the machine. What
    other programs take from the device is missing from it. Global random state isn't touched.
    """
    size = _SIZES.get(device.type, _SIZE)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    deadline = time.perf_counter() + seconds
    fastest = float("inf")
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        torch.mm(a, b, out=out)
        for _ in range(_MOST):
            synchronize(device)
            begun = time.perf_counter()
            torch.mm(a, b, out=out)
            synchronize(device)
            now = time.perf_counter()
            fastest = min(fastest, now - begun)
            if now > deadline:
                break
    return 2 * size**3 / fastest


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

"""Floating-point operations of a training step, and the peak of the device, for model FLOPs utilization."""

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

from xlm.modules.packing import TOKEN_INDEX

_aten = torch.ops.aten
# Operators with two factors, by the positions of these among the arguments.
_PRODUCTS = {_aten.mm: (0, 1), _aten.addmm: (1, 2), _aten.bmm: (0, 1), _aten.baddbmm: (1, 2), _aten.convolution: (0, 1)}
_ATTENTION = "_scaled_dot_product_"
# The output layer and its loss, computed together: hidden states (rows × d) and weights (vocabulary × d).
_HEADS = ("xlm::summed_linear_cross_entropy", "xlm::linear_cross_entropy_rows")


@dataclass(frozen=True)
class Shape:
    """The size of one or several batches: `positions` (padding too, if computed), and `pairs`, Σ rows · length²."""

    positions: int = 0
    pairs: int = 0

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, Any]]) -> Shape:
        """The shape of a batch's dicts of tensors."""
        ids = [part["input_ids"] for part in parts]
        positions = sum(part.get(TOKEN_INDEX, part["input_ids"]).numel() for part in parts)
        return cls(positions, sum(x.numel() * x.shape[-1] for x in ids))

    def __add__(self, other: Shape) -> Shape:
        return Shape(self.positions + other.positions, self.pairs + other.pairs)


@dataclass(frozen=True)
class StepFlops:
    """Operations of forward and backward: `per_position`, and `per_pair` of positions compared by attention."""

    per_position: float
    per_pair: float

    def of(self, shape: Shape) -> float:
        """Operations for batches of that shape, if the same share of their positions contributes to the loss."""
        return self.per_position * shape.positions + self.per_pair * shape.pairs


class FlopTally(TorchDispatchMode):
    """Counts the operations of a training step, including backward, from the operators of its forward pass.

    A product of an m × k and a k × n matrix is 2mkn operations, and the same again in backward for each factor with a
    gradient: 6 for each weight and position. Attention is one product for the scores and one for the values,
    4 · B · H · queries · keys · d_head, and twice that in backward; positions hidden by a causal mask count, following
    convention (arXiv 2204.02311, appendix B). The output layer counts for the rows that contribute to the loss.
    Element-wise operations, the optimizer, and recomputation to save memory are not counted.
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
        """The count, for batches like the one of that shape; None without a count."""
        if not self.matmul or not shape.positions:
            return None
        return StepFlops(self.matmul / shape.positions, self.attention / shape.pairs)


def _times(factors: Sequence[Tensor]) -> int:
    """How often a product is computed: once, and in backward once for each factor with a gradient."""
    return 1 + sum(factor.requires_grad for factor in factors) if torch.is_grad_enabled() else 1


class FirstForward:
    """Counts one forward pass, the first after `begin`; `flops` is known once it has ended and its shape is given."""

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
        """Stop counting; may be called repeatedly."""
        if self._is_open and self._tally is not None:
            self._is_open, self._is_done = False, True
            self._tally.__exit__(None, None, None)

    def settle(self, shape: Shape) -> None:
        """Give the shape of the counted batch."""
        self.end()
        if self._tally is not None:
            self.flops, self._tally = self._tally.per_batch(shape), None


# Matrices large enough to be limited by arithmetic, and small enough for several products in the given time.
_SIZES = {"cuda": 4096}
_SIZE = 768
_MOST = 50


def matmul_dtype(precision: str) -> torch.dtype:
    """The data type of matrix products under one of Lightning's precisions."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.25) -> float:
    """Operations per second of the fastest of several products of square matrices, timed for about `seconds`.

    It uses the threads of this process, so on a CPU it is the peak of those threads and not of the machine. Other
    programs on the device reduce it. The global random state is not changed.
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
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

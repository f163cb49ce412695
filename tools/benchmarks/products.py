"""The matrix products of a step by their shapes, and the time that they take alone."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# Operators with two factors, by the position of the first of these among the arguments.
_FACTORS = {_aten.mm: 0, _aten.bmm: 0, _aten.addmm: 1, _aten.baddbmm: 1}
# The output layer together with its loss: hidden states (rows × d) and weights (vocabulary × d).
_HEADS = ("xlm::summed_linear_cross_entropy", "xlm::linear_cross_entropy_rows")

# Factors: number of products, rows, inner size, columns.
Product = tuple[int, int, int, int]


def operations(product: Product) -> int:
    """2 · b · m · k · n."""
    return 2 * math.prod(product)


class Products(TorchDispatchMode):
    """Counts the matrix products that run inside, by shape.

    Args:
        is_training: count what runs with gradients, and with each product those of its backward pass.
    """

    supports_higher_order_operators = True

    def __init__(self, is_training: bool) -> None:
        super().__init__()
        self.is_training = is_training
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", None)
        name = str(getattr(packet, "_qualified_op_name", ""))
        if name in _HEADS:  # which run without a graph, and compute their gradients at once
            hidden, weight = args[:2]
            self._add(hidden.shape, weight.shape[0], hidden.requires_grad, weight.requires_grad)
        elif self.is_training and not torch.is_grad_enabled():
            return out
        elif packet in _FACTORS:
            a, b = args[_FACTORS[packet] : _FACTORS[packet] + 2]
            self._add(a.shape, b.shape[-1], a.requires_grad, b.requires_grad)
        elif name.startswith("aten::_scaled_dot_product_") and not name.endswith("_backward"):
            q, k, v = args[:3]
            self._add(q.shape, k.shape[-2], q.requires_grad, k.requires_grad)
            self._add((*q.shape[:-1], k.shape[-2]), v.shape[-1], q.requires_grad, v.requires_grad)
        return out

    def _add(self, shape: Any, n: int, left: bool, right: bool) -> None:
        *batch, m, k = shape
        b = math.prod(batch)
        self.counts[b, m, k, n] += 1
        if self.is_training:
            self.counts[b, m, n, k] += left
            self.counts[b, k, m, n] += right

    @property
    def total(self) -> int:
        """Operations of all products."""
        return sum(operations(product) * count for product, count in self.counts.items())


def counted(run: Callable[[], Any], is_training: bool) -> Products:
    """The products of one run."""
    products = Products(is_training)
    with products:
        run()
    return products


# Of steps with many shapes, those with the most operations are timed.
_MOST_SHAPES = 40


def seconds_alone(products: Products, device: str, dtype: torch.dtype, seconds: float = 0.02) -> float:
    """CPU seconds (CUDA: seconds) of the products one after the other; rare shapes count at the speed of the others."""
    largest = sorted(products.counts, key=lambda p: operations(p) * products.counts[p], reverse=True)[:_MOST_SHAPES]
    found = sum(products.counts[product] * _fastest(product, device, dtype, seconds) for product in largest)
    covered = sum(operations(product) * products.counts[product] for product in largest)
    return found * products.total / covered if covered else 0.0


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Operations per CPU second (CUDA: per second) of one large product, the fastest of several."""
    size = 4096 if device == "cuda" else 768
    return 2 * size**3 / _fastest((1, size, size, size), device, dtype, 0.5)


@torch.no_grad()
def _fastest(product: Product, device: str, dtype: torch.dtype, seconds: float) -> float:
    b, m, k, n = product
    if not min(product):
        return 0.0
    left, right = torch.randn(b, m, k, device=device, dtype=dtype), torch.randn(b, k, n, device=device, dtype=dtype)
    multiply: Callable[[], Tensor] = (lambda: torch.mm(left[0], right[0])) if b == 1 else lambda: torch.bmm(left, right)
    now = time.perf_counter if device == "cuda" else time.process_time
    fastest, deadline = math.inf, time.perf_counter() + seconds
    # Small products are repeated within a measurement, for the clock's sake.
    repeats = max(1, min(100, 2 * 10**6 // operations(product)))
    multiply()
    for _ in range(200):
        _wait(device)
        begun = now()
        for _ in range(repeats):
            multiply()
        _wait(device)
        fastest = min(fastest, (now() - begun) / repeats)
        if time.perf_counter() > deadline:
            break
    return fastest


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# The share of positions whose output is read, on average: all of them, or those under masks or with insertions.
READ = {"arlm": 1.0, "mlm": 0.5, "ilm": 0.5, "mdlm": 0.5}


def operations_per_token(family: str, d: int, layers: int, L: int, V: int) -> tuple[float, float, float]:
    """Operations of a training step per position of full rows, by calculation: of layers, attention and output layer.

    Six for each weight and position that uses it. A layer has 12 d² weights; in the last one, output projection and
    MLP (9 d²) run at the positions that are read. Attention compares L keys with a query: 12 L d, without regard to
    causal masks. The output layer runs at the positions that are read.
    """
    read = READ[family]
    return 6 * d * d * (12 * (layers - 1) + 3 + 9 * read), 12 * L * d * layers, 6 * d * V * read

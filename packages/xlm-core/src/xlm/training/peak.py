"""How fast a device multiplies matrices: the yardstick of model FLOPs utilisation."""

from __future__ import annotations

import time

import torch

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

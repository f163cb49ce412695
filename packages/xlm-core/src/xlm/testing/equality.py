"""Compares batches, states and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def differences(one: Any, other: Any) -> list[str]:
    """Names of the entries in which two mappings differ, at all; `[value]` for two different things of other kinds."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = list(dict.fromkeys([*one, *other]))
        return [
            str(name) for name in names if name not in one or name not in other or differences(one[name], other[name])
        ]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = (
            one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
        )
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        same = len(one) == len(other) and not any(differences(a, b) for a, b in zip(one, other, strict=True))
    else:
        same = bool(one == other)
    return [] if same else ["value"]


def near(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers differ by at most `tolerance`, relatively where they are large."""
    return abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))

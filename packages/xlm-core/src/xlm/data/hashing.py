"""Hashes that stay the same across processes and versions: of integers, of values, of code."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from xlm.errors import DataError

UInts = npt.NDArray[np.uint64]


def splitmix64(x: UInts) -> UInts:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of `x`."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def noise_seeds(seed: int, epoch: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One 63-bit seed per example, a pure function of (seed, epoch, index)."""
    base = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    base = splitmix64(base ^ np.uint64(epoch))
    return (splitmix64(base ^ indices.astype(np.uint64)) >> np.uint64(1)).astype(np.int64)


def hash_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`; `DataError` for what JSON cannot hold."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except TypeError as error:
        raise DataError(f"Prepared data cannot be named after this value: {error}. Plain values are needed.") from error
    return sha256(text.encode()).hexdigest()


def code_version(function: Callable[..., Any]) -> str:
    """A hash of the source of the module that defines `function`; its helpers there count too."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    try:
        source = inspect.getsource(module if module is not None else function)
    except (OSError, TypeError):
        # No source to read (an interactive session, an extension module): the name has to do.
        source = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
    return sha256(source.encode()).hexdigest()

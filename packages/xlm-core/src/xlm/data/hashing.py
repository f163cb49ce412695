"""Hashes that stay the same across processes and versions: of integers, of values, of code."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xlm.errors import DataError

UInts = npt.NDArray[np.uint64]

# 2^64 · (√5 − 1)/2, and an index that is never used for an example.
_GOLDEN = 0x9E3779B97F4A7C15
# Of SplitMix64, as arrays: numpy takes longer to convert a number than to add it to a few others.
_INCREMENT, _FACTOR_1, _FACTOR_2, _BY_30, _BY_27, _BY_31 = (
    np.array(number, dtype=np.uint64) for number in (_GOLDEN, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 30, 27, 31)
)
_LEVELS = -1
# Larger files are hashed from samples, since start-up must not read a whole corpus.
_WHOLE_DIGEST_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**20
_NUM_SAMPLES = 16


def splitmix64(x: UInts) -> UInts:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of `x`."""
    x = np.add(x, _INCREMENT, out=np.empty_like(x))  # an array even for a single number
    x ^= x >> _BY_30
    x *= _FACTOR_1
    x ^= x >> _BY_27
    x *= _FACTOR_2
    x ^= x >> _BY_31
    return x


def noise_seeds(seed: int, epoch: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One 63-bit seed per example, a pure function of (seed, epoch, index)."""
    base = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    base = splitmix64(base ^ np.uint64(epoch))
    return (splitmix64(base ^ indices.astype(np.uint64)) >> np.uint64(1)).astype(np.int64)


def time_quantiles(seed: int, epoch: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per place in the epoch's order: frac(u + place · (√5 − 1)/2), u uniform from (seed, epoch).

    The values of any consecutive places are evenly spread, so a batch has low variance wherever it begins and
    however it is split over ranks, but no quantile depends on the batch. Weyl's sequence: see Niederreiter, Random
    Number Generation and Quasi-Monte Carlo Methods (1992), chapter 3.
    """
    u = noise_seeds(seed, epoch, np.array([_LEVELS]))[0] / 2.0**63
    # Integer arithmetic: a product of floats would lose digits at places beyond 2^30.
    turns = (places.astype(np.uint64) * np.uint64(_GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.asarray((u + turns) % 1.0)


def hash_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`; `DataError` if JSON cannot represent it."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except TypeError as error:
        raise DataError(f"The cache key cannot contain this value: {error}. Use plain values.") from error
    return sha256(text.encode()).hexdigest()


def code_version(function: Callable[..., Any]) -> str:
    """A hash of the source of the module that defines `function`, which includes helpers defined there."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    try:
        source = inspect.getsource(module if module is not None else function)
    except (OSError, TypeError):
        # No source is available (an interactive session, an extension module), so use the name.
        source = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
    return sha256(source.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of the whole file, or of evenly spaced samples of a large one."""
    digest = blake2b(digest_size=16)
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_DIGEST_BYTES:
            while block := file.read(_SAMPLE_BYTES):
                digest.update(block)
        else:
            for i in range(_NUM_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * i // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()

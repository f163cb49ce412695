"""Which tokens an example loses, as a pure function of its seed, and where they are missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from xlm.data.hashing import splitmix64
from xlm.errors import DataError

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Corrupted(NamedTuple):
    """B sequences after deletion; gap g of a sequence lies behind its g-th kept token, gap 0 before the first."""

    kept: list[list[int]]
    num_dropped: Ints  # (B,)
    hits_per_row: Ints  # (B,)
    # One entry per distinct (row, gap, token), by row, then gap, then token.
    gaps: Ints
    tokens: Ints
    counts: Ints


def seeds_of(examples: Sequence[Any]) -> npt.NDArray[np.uint64]:
    """The examples' `noise_seed`; `DataError` for an example without, whose corruption nothing would decide."""
    try:
        return np.array([int(example["noise_seed"]) % 2**64 for example in examples], dtype=np.uint64)
    except KeyError as error:
        found = ", ".join(map(str, examples[0])) if examples else "nothing"
        raise DataError(
            f"An example has no noise_seed, which decides what it loses; it has: {found}.\n"
            "The data module's loaders set it; give your own examples one integer each."
        ) from error


def uniforms(seeds: npt.NDArray[np.uint64], num: int, stream: int = 0) -> Floats:
    """(B, num) numbers in [0, 1): entry j of a row depends on (seed, stream, j) only."""
    keys = splitmix64(splitmix64(seeds) ^ np.uint64(stream))
    bits = splitmix64(keys[:, None] ^ np.arange(num, dtype=np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_drops(lengths: Ints, seeds: npt.NDArray[np.uint64]) -> Bools:
    """(B, longest) True where a token is deleted: n ~ U{0..length}, then n positions uniformly."""
    width = int(lengths.max(initial=0))
    u = uniforms(seeds, width + 1)
    num = (u[:, 0] * (lengths + 1)).astype(np.int64)
    priority = np.where(np.arange(width) < lengths[:, None], u[:, 1:], np.inf)
    rank = priority.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    dropped: Bools = rank < num[:, None]
    return dropped


def close_up(sequences: Sequence[Sequence[int]], dropped: Bools) -> Corrupted:
    """Delete the marked tokens; count what is missing from each gap. `dropped` (B, longest) marks no padding."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    present = np.arange(dropped.shape[1]) < lengths[:, None]
    ids = np.zeros(dropped.shape, dtype=np.int64)
    ids[present] = np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(lengths.sum()))
    keep = present & ~dropped
    kept = [row[mask].tolist() for row, mask in zip(ids, keep, strict=True)]
    gap = keep.cumsum(axis=1)  # at a deleted token: how many kept ones stand before it
    rows, columns = dropped.nonzero()
    hits, counts = np.unique(
        np.stack([rows, gap[rows, columns], ids[rows, columns]], axis=1), axis=0, return_counts=True
    )
    per_row = np.bincount(hits[:, 0], minlength=len(sequences))
    return Corrupted(kept, dropped.sum(axis=1), per_row, hits[:, 1], hits[:, 2], counts)


def corrupt(sequences: Sequence[Sequence[int]], seeds: npt.NDArray[np.uint64]) -> Corrupted:
    """`close_up` of `draw_drops`: the training corruption of arXiv 2505.05755, section 3."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    return close_up(sequences, draw_drops(lengths, seeds))

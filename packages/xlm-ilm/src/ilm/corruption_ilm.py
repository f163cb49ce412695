"""Which tokens an example loses, as a pure function of its seed, and where they are missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from xlm.decoding.counter_rng import Stream, uniform

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Corrupted(NamedTuple):
    """B sequences after deletion; gap g of a sequence lies behind its g-th kept token, gap 0 before the first."""

    kept: list[list[int]]
    num_dropped: Ints  # (B,)
    hits_per_row: Ints  # (B,)
    # One entry per distinct (row, gap, token), by row, then gap, then token.
    gaps: Ints
    tokens: Ints
    counts: Ints


def draw_drops(
    lengths: Sequence[int], seeds: Integer[Tensor, " batch"], quantile: Float[Tensor, " batch"] | None = None
) -> Bools:
    """(B, longest) True where a token is deleted: n = ⌊quantile · (length + 1)⌋ uniformly chosen positions.

    quantile None: U(0, 1) from the seeds, so that n ~ U{0..length}. Equal seeds delete in the same order.
    """
    size = torch.tensor(lengths, dtype=torch.int64)
    width = max(lengths, default=0)
    quantile = uniform(seeds, Stream.TIME) if quantile is None else quantile
    # Below 1, but the product may round up to the next whole number.
    num = torch.minimum((quantile * (size + 1)).long(), size)
    priority = uniform(seeds[:, None], Stream.ORDER, torch.arange(width))
    priority[torch.arange(width) >= size[:, None]] = 2.0  # never before a real token
    rank = priority.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    dropped: Bools = (rank < num[:, None]).numpy()
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


def corrupt(
    sequences: Sequence[Sequence[int]],
    seeds: Integer[Tensor, " batch"],
    quantile: Float[Tensor, " batch"] | None = None,
) -> Corrupted:
    """`close_up` of `draw_drops`: the training corruption of arXiv 2505.05755."""
    return close_up(sequences, draw_drops([len(ids) for ids in sequences], seeds, quantile))

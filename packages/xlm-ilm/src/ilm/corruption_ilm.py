"""Which tokens an example loses, as a pure function of its seed, and where they are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from xlm.data.collate import FlatIds, flat_ids
from xlm.decoding.counter_rng import Stream, uniform

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Corrupted(NamedTuple):
    """B sequences after deletion; gap g of a sequence lies behind its g-th kept token, gap 0 before the first."""

    clean: FlatIds
    kept: FlatIds
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
    size = np.array(lengths, dtype=np.int64)
    width = int(size.max(initial=0))
    quantile = uniform(seeds, Stream.TIME) if quantile is None else quantile
    # Below 1, but the product may round up to the next whole number.
    num = np.minimum((quantile.numpy() * (size + 1)).astype(np.int64), size)
    priority = uniform(seeds[:, None], Stream.ORDER, torch.arange(width)).numpy()
    priority[np.arange(width) >= size[:, None]] = 2.0  # never before a real token
    # Behind a 0, which stands before every priority, the n-th of the sorted ones is the last that is deleted.
    ordered = np.zeros((len(size), width + 1))
    ordered[:, 1:] = priority
    ordered.sort(axis=1)
    dropped: Bools = priority <= np.take_along_axis(ordered, num[:, None], axis=1)
    return dropped


def close_up(sequences: Sequence[Sequence[int]], dropped: Bools) -> Corrupted:
    """Delete the marked tokens; count what is missing from each gap. `dropped` (B, longest) marks no padding."""
    clean = flat_ids(sequences)
    is_gone = dropped[np.arange(dropped.shape[1]) < clean.lengths[:, None]]
    num_dropped = dropped.sum(axis=1)
    kept = FlatIds(clean.ids[~is_gone], clean.lengths - num_dropped)
    places = np.flatnonzero(is_gone)
    rows = np.repeat(np.arange(len(sequences)), num_dropped)
    # Gaps of all rows, numbered: a row of k kept tokens has k + 1. They are in order, so sorting moves tokens only
    # within a gap, and equal hits stand together.
    first_gap = np.cumsum(kept.lengths + 1) - (kept.lengths + 1)
    gap = places - np.arange(len(places)) + rows
    bits = int(clean.ids.max(initial=0)).bit_length()
    hits = np.sort(gap << bits | clean.ids[places])
    first = np.flatnonzero(np.diff(hits, prepend=-1))
    hits, rows = hits[first], rows[first]
    return Corrupted(
        clean,
        kept,
        num_dropped,
        hits_per_row=np.bincount(rows, minlength=len(sequences)),
        gaps=(hits >> bits) - first_gap[rows],
        tokens=hits & ((1 << bits) - 1),
        counts=np.diff(first, append=len(places)),
    )


def corrupt(
    sequences: Sequence[Sequence[int]],
    seeds: Integer[Tensor, " batch"],
    quantile: Float[Tensor, " batch"] | None = None,
) -> Corrupted:
    """`close_up` of `draw_drops`: the training corruption of arXiv 2505.05755."""
    return close_up(sequences, draw_drops([len(ids) for ids in sequences], seeds, quantile))

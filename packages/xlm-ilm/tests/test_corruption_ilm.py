"""Corruption: uniform over how many and which, a function of the seed alone, nothing lost from the books."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm.corruption_ilm import close_up, corrupt, draw_drops, seeds_of, uniforms
from xlm.errors import DataError

sequences = st.lists(st.lists(st.integers(7, 10), max_size=7), min_size=1, max_size=5)


@given(sequences, st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_kept_and_missing_tokens_make_up_the_sequence(rows: list[list[int]], seed: int) -> None:
    corrupted = corrupt(rows, np.arange(len(rows), dtype=np.uint64) + np.uint64(seed))
    first = 0
    for row, kept, n, num_hits in zip(rows, corrupted.kept, corrupted.num_dropped, corrupted.hits_per_row, strict=True):
        hits = slice(first, first + num_hits)
        first += num_hits
        assert corrupted.counts[hits].sum() == n == len(row) - len(kept)
        assert (corrupted.counts[hits] > 0).all()
        missing = np.repeat(corrupted.tokens[hits], corrupted.counts[hits]).tolist()
        assert sorted(kept + missing) == sorted(row)
        assert ((corrupted.gaps[hits] >= 0) & (corrupted.gaps[hits] <= len(kept))).all()
    assert first == len(corrupted.tokens)


def test_missing_tokens_are_counted_in_the_gap_behind_their_nearest_kept_neighbour() -> None:
    rows = [[7, 8, 8, 9, 8, 7], [7, 7]]
    dropped = np.array([[1, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]], dtype=bool)
    corrupted = close_up(rows, dropped)
    assert corrupted.kept == [[8, 7], []]
    found = list(zip(corrupted.gaps.tolist(), corrupted.tokens.tolist(), corrupted.counts.tolist(), strict=True))
    assert found == [(0, 7, 1), (1, 8, 2), (1, 9, 1), (0, 7, 2)]
    assert corrupted.hits_per_row.tolist() == [3, 1]


def test_every_number_and_every_subset_is_as_likely_as_it_should_be() -> None:
    """P(subset of size n) = 1/(L+1) · 1/C(L, n), over 40,000 seeds: Pearson's chi-squared."""
    L, draws = 4, 40_000
    dropped = draw_drops(np.full(draws, L), np.arange(draws, dtype=np.uint64))
    observed = np.bincount(dropped @ (1 << np.arange(L)), minlength=2**L)
    size = np.array([i.bit_count() for i in range(2**L)])
    expected = draws / (L + 1) / np.array([math.comb(L, n) for n in size])
    chi2, freedom = ((observed - expected) ** 2 / expected).sum(), 2**L - 1
    assert chi2 < freedom + 4.5 * (2 * freedom) ** 0.5


def test_an_example_loses_the_same_in_any_batch() -> None:
    rows = [[7, 8, 9], [7] * 9, [], [10, 9, 8, 7]]
    seeds = np.array([3, 2**63 + 5, 7, 11], dtype=np.uint64)
    together = corrupt(rows, seeds).kept
    assert together == [corrupt([row], seeds[i : i + 1]).kept[0] for i, row in enumerate(rows)]
    order = [2, 0, 3, 1]
    assert corrupt([rows[i] for i in order], seeds[order]).kept == [together[i] for i in order]


def test_streams_and_seeds_are_unrelated() -> None:
    drawn = np.stack([uniforms(np.arange(500, dtype=np.uint64), 20, stream=s).ravel() for s in range(3)])
    assert 0 <= drawn.min() < drawn.max() < 1
    for a, b in combinations(drawn, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.04
    assert abs(np.corrcoef(drawn[0][:-20], drawn[0][20:])[0, 1]) < 0.04


def test_an_example_without_a_seed_is_refused() -> None:
    with pytest.raises(DataError, match="An example has no noise_seed, which decides what it loses; it has: input_ids"):
        seeds_of([{"input_ids": [7]}])

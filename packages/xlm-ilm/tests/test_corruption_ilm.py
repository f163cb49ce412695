"""Corruption: uniform over how many and which, a function of the seed alone, nothing lost from the books."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm.corruption_ilm import close_up, corrupt, draw_drops
from xlm.data.collate import FlatIds
from xlm.decoding.counter_rng import Stream, uniform

sequences = st.lists(st.lists(st.integers(7, 10), max_size=7), min_size=1, max_size=5)


def lists(rows: FlatIds) -> list[list[int]]:
    ends = rows.lengths.cumsum()
    return [rows.ids[end - n : end].tolist() for n, end in zip(rows.lengths, ends, strict=True)]


@given(sequences, st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_kept_and_missing_tokens_make_up_the_sequence(rows: list[list[int]], seed: int) -> None:
    corrupted = corrupt(rows, torch.arange(len(rows)) ^ seed)
    first = 0
    for row, kept, n, num_hits in zip(
        rows, lists(corrupted.kept), corrupted.num_dropped, corrupted.hits_per_row, strict=True
    ):
        hits = slice(first, first + num_hits)
        first += num_hits
        assert corrupted.counts[hits].sum() == n == len(row) - len(kept)
        assert (corrupted.counts[hits] > 0).all()
        missing = np.repeat(corrupted.tokens[hits], corrupted.counts[hits]).tolist()
        assert sorted(kept + missing) == sorted(row)
        assert ((corrupted.gaps[hits] >= 0) & (corrupted.gaps[hits] <= len(kept))).all()
    assert first == len(corrupted.tokens)


@given(sequences, st.integers(0, 2**62), st.booleans())
@settings(deadline=None)
def test_corruption_is_that_of_a_loop_over_tokens(rows: list[list[int]], seed: int, with_quantiles: bool) -> None:
    seeds = torch.arange(len(rows)) + seed
    quantiles = (torch.arange(len(rows)) + 0.5) / len(rows) if with_quantiles else uniform(seeds, Stream.TIME)
    corrupted = corrupt(rows, seeds, quantiles.double() if with_quantiles else None)
    kept_rows, dropped_numbers, hits_per_row = [], [], []
    hits: list[tuple[int, int, int]] = []
    for row, row_seed, quantile in zip(rows, seeds, quantiles.tolist(), strict=True):
        order = [float(uniform(row_seed, Stream.ORDER, column)) for column in range(len(row))]
        num = min(int(quantile * (len(row) + 1)), len(row))
        gone = sorted(range(len(row)), key=order.__getitem__)[:num]
        kept: list[int] = []
        missing: Counter[tuple[int, int]] = Counter()
        for column, token in enumerate(row):
            if column in gone:
                missing[len(kept), token] += 1
            else:
                kept.append(token)
        kept_rows.append(kept)
        dropped_numbers.append(num)
        hits_per_row.append(len(missing))
        hits += [(*hit, count) for hit, count in sorted(missing.items())]
    assert lists(corrupted.kept) == kept_rows
    assert lists(corrupted.clean) == rows
    assert corrupted.num_dropped.tolist() == dropped_numbers
    assert corrupted.hits_per_row.tolist() == hits_per_row
    found = zip(corrupted.gaps.tolist(), corrupted.tokens.tolist(), corrupted.counts.tolist(), strict=True)
    assert list(found) == hits


def test_missing_tokens_are_counted_in_the_gap_behind_their_nearest_kept_neighbour() -> None:
    rows = [[7, 8, 8, 9, 8, 7], [7, 7]]
    dropped = np.array([[1, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]], dtype=bool)
    corrupted = close_up(rows, dropped)
    assert lists(corrupted.kept) == [[8, 7], []]
    found = list(zip(corrupted.gaps.tolist(), corrupted.tokens.tolist(), corrupted.counts.tolist(), strict=True))
    assert found == [(0, 7, 1), (1, 8, 2), (1, 9, 1), (0, 7, 2)]
    assert corrupted.hits_per_row.tolist() == [3, 1]


def test_every_number_and_every_subset_is_as_likely_as_it_should_be() -> None:
    """P(subset of size n) = 1/(L+1) · 1/C(L, n), over 40,000 seeds: Pearson's chi-squared."""
    L, draws = 4, 40_000
    dropped = draw_drops([L] * draws, torch.arange(draws))
    observed = np.bincount(dropped @ (1 << np.arange(L)), minlength=2**L)
    size = np.array([i.bit_count() for i in range(2**L)])
    expected = draws / (L + 1) / np.array([math.comb(L, n) for n in size])
    chi2, freedom = ((observed - expected) ** 2 / expected).sum(), 2**L - 1
    assert chi2 < freedom + 4.5 * (2 * freedom) ** 0.5


def test_an_example_loses_the_same_in_any_batch() -> None:
    rows = [[7, 8, 9], [7] * 9, [], [10, 9, 8, 7]]
    seeds = torch.tensor([3, 2**63 - 5, 7, 11])
    together = lists(corrupt(rows, seeds).kept)
    assert together == [lists(corrupt([row], seeds[i : i + 1]).kept)[0] for i, row in enumerate(rows)]
    order = [2, 0, 3, 1]
    assert lists(corrupt([rows[i] for i in order], seeds[order]).kept) == [together[i] for i in order]


def test_a_level_says_how_many_are_deleted_and_equal_seeds_delete_in_one_order() -> None:
    level = torch.cat([(torch.arange(10) + 0.5) / 10, torch.tensor([1 - 1e-16])]).double()
    dropped = draw_drops([4] * 11, torch.full((11,), 5), level)
    assert dropped.sum(axis=1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert (dropped[1:] >= dropped[:-1]).all()


def test_nothing_to_corrupt() -> None:
    assert lists(corrupt([], torch.zeros(0, dtype=torch.int64)).kept) == []
    assert corrupt([[], []], torch.arange(2)).num_dropped.tolist() == [0, 0]

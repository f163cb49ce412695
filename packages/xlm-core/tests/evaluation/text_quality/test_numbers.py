"""Diversity and overlap compared with values computed by hand and with plain loops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.evaluation.text_quality import Overlap
from xlm.evaluation.text_quality.diversity import SIZES, add_all, diversity

rows_of_tokens = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=6)


def grams(row: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def test_a_page_by_hand() -> None:
    found = diversity([[1, 1, 2, 2], [3], []], [True, False, None])
    assert found["entropy"].value == pytest.approx(math.log(2) / 3)
    pooled = (2 * 0.4 * math.log(2.5)) + 0.2 * math.log(5)
    assert found["entropy_pooled"].value == pytest.approx(pooled)
    assert found["distinct_1"] == (3 / 5, None, 3)
    assert found["distinct_2"] == (1.0, None, 3)
    assert found["length"].value == pytest.approx(5 / 3)
    assert (found["length_p50"].value, found["length_max"].value) == (1.0, 4.0)
    assert found["length_sd"].value == pytest.approx(math.sqrt(((7 / 3) ** 2 + (2 / 3) ** 2 + (5 / 3) ** 2) / 2))
    assert found["empty"].value == pytest.approx(1 / 3)
    assert found["ended"] == pytest.approx((0.5, 0.5, 2))
    assert "ended" not in diversity([[1]], [None])


def test_repetition_has_low_entropy_and_many_repeats() -> None:
    same, varied = diversity([[7] * 20] * 3), diversity([list(range(20))] * 3)
    assert (same["entropy"].value, same["repeated_4"].value) == (0.0, 16 / 17)
    assert (varied["entropy"].value, varied["repeated_4"].value) == (pytest.approx(math.log(20)), 0.0)
    # Texts that are all the same: only what is counted over all of them shows it.
    assert varied["distinct_1"].value == pytest.approx(1 / 3)


def test_no_text_at_all_is_no_number() -> None:
    assert {estimate.value for estimate in diversity([]).values()} == {None}
    assert diversity([[]])["entropy"].value == 0.0


@given(rows_of_tokens)
def test_diversity_is_that_of_plain_loops(rows: list[list[int]]) -> None:
    found = diversity(rows)
    for n in (1, 2, 3, 4):
        every = [gram for row in rows for gram in grams(row, n)]
        assert found[f"distinct_{n}"].value == (len(set(every)) / len(every) if every else None)
    fours = [grams(row, 4) for row in rows]
    repeats, total = sum(len(f) - len(set(f)) for f in fours), sum(map(len, fours))
    assert found["repeated_4"].value == (pytest.approx(repeats / total) if total else None)
    if rows:
        of_text = [-sum(row.count(t) / len(row) * math.log(row.count(t) / len(row)) for t in set(row)) for row in rows]
        assert found["entropy"].value == pytest.approx(sum(of_text) / len(rows), abs=1e-9)


@given(rows_of_tokens, rows_of_tokens.filter(bool), st.integers(1, 30))
def test_overlap_is_that_of_plain_loops_however_the_training_data_are_cut(
    rows: list[list[int]], train: list[list[int]], chunk: int
) -> None:
    overlap = Overlap(rows)
    add_all([overlap], iter(train), chunk)
    found = overlap.estimates()
    for n in SIZES:
        known = {gram for row in train for gram in grams(row, n)}
        every = [gram for row in rows for gram in grams(row, n)]
        share = sum(gram in known for gram in every) / len(every) if every else None
        assert found[f"copied_{n}"].value == (None if share is None else pytest.approx(share))
    spans = [
        max((n for n in range(1, len(row) + 1) for gram in grams(row, n) if any(gram in grams(t, n) for t in train)),
            default=0)
        for row in rows
    ]  # fmt: skip
    assert found["copied_span_max"].value == (max(spans) if rows else None)
    assert (overlap.num_examples, overlap.num_tokens) == (len(train), sum(map(len, train)))


def test_copied_training_text_is_found_whole() -> None:
    train = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [20, 21]]
    overlap = Overlap([[2, 3, 4, 5, 6, 7, 8, 9], [20, 21], [9, 10, 20, 21], []])
    assert overlap.estimates() == {}
    overlap.add(train)
    found = overlap.estimates()
    assert found["copied_1"].value == 1.0
    assert found["copied_8"].value == 1.0
    assert found["copied_2"].value == pytest.approx(10 / 11)  # not over the end of an example
    assert found["copied_span"].value == pytest.approx((8 + 2 + 2 + 0) / 4)
    assert found["copied_whole"].value == pytest.approx(2 / 4)

"""The paired test and its interval, compared with numbers computed by hand, full enumeration, and simulation."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.reports.quantities import holm, mcnemar, paired_interval, share_error, wilson_interval


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),  # nothing tells them apart
        (0, 1, 1.0),
        (0, 5, 2 / 32),
        (1, 5, 2 * (1 + 6) / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (5, 5, 1.0),
        # The approval ratings of Agresti, Categorical Data Analysis, section 11.1: 150 against 86.
        (150, 86, 3.716e-05),
    ],
)
def test_mcnemar(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-3)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_is_the_share_of_outcomes_as_far_from_even(first: int, second: int) -> None:
    n, distance = first + second, abs(first - second)
    outcomes = sum(math.comb(n, k) for k in range(n + 1) if abs(n - 2 * k) >= distance)
    assert mcnemar(first, second) == pytest.approx(float(Fraction(outcomes, 2**n)), rel=1e-12)


def test_mcnemar_of_many_examples_stays_exact() -> None:
    assert mcnemar(4000, 1000) < 1e-300
    assert mcnemar(50_000, 50_000) == 1.0


def test_the_interval_by_hand() -> None:
    # n = 98, 9 against 4: shares 0.10 and 0.05 of 100, √((0.15 − 0.0025) / 100) = 0.038406.
    low, high = paired_interval(9, 4, 98)
    assert low == pytest.approx(0.05 - 1.959964 * 0.0384057, abs=1e-6)
    assert high == pytest.approx(0.05 + 1.959964 * 0.0384057, abs=1e-6)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 200))
def test_an_interval_holds_the_difference_and_turns_round(first: int, second: int, others: int) -> None:
    n = first + second + others
    low, high = paired_interval(first, second, n)
    assert -1 <= low <= (first - second) / n <= high <= 1
    assert paired_interval(second, first, n) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("first", "second"), [(0.3, 0.3), (0.1, 0.02), (0.5, 0.2)])
def test_simulated_coverage_and_false_alarms(first: float, second: float) -> None:
    """Of 1,500 simulated comparisons, 95 % hold the truth, and equal models are told apart in at most 5 %."""
    rng = random.Random(0)
    n, trials = 80, 1500
    covered = alarms = 0
    for _ in range(trials):
        draws = rng.choices((0, 1, 2), weights=(first, second, 1 - first - second), k=n)
        a, b = draws.count(0), draws.count(1)
        low, high = paired_interval(a, b, n)
        covered += low <= first - second <= high
        alarms += mcnemar(a, b) < 0.05
    assert 0.935 <= covered / trials <= 0.985
    if first == second:
        assert alarms / trials <= 0.05 + 3 * share_error(0.05, trials)


def test_errors_of_shares() -> None:
    assert share_error(0.5, 100) == pytest.approx(0.05)
    assert share_error(1.0, 100) == 0.0
    # Wilson's own formula at 0 of n: z² / (n + z²).
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 1.959964**2 / (10 + 1.959964**2)), abs=1e-6)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]

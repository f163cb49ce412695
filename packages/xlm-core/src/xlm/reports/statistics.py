"""Errors of shares, and the paired comparison of two models on the same examples, in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def share_error(share: float, n: int) -> float:
    """Standard error of a share of `n` independent examples, √(p (1 − p) / n)."""
    return math.sqrt(max(share * (1 - share), 0.0) / n)


def wilson_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson, 1927): sensible at 0 and 1 too, where the standard error is 0."""
    z2 = _z(level) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * max(share * (1 - share), 0.0) / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of the exact McNemar test: is either model right alone more often than the other?

    Under the null hypothesis each example on which the two differ goes to either with probability ½, whatever happens
    on the others: a binomial test.
    """
    n = only_first + only_second
    term = total = 1
    for k in range(min(only_first, only_second)):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def paired_interval(only_first: int, only_second: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two shares on the same `n` examples, first minus second.

    Wald's interval after adding one example to either kind of disagreement: Bonett and Price, Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data, J. Educ. Behav. Stat. 37 (2012).
    """
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = _z(level) * math.sqrt((first + second - (first - second) ** 2) / (n + 2))
    return max(-1.0, first - second - half), min(1.0, first - second + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several (Holm, 1979), in the given order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)

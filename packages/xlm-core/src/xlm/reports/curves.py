"""Learning curves of several runs as panels of points, few enough to be drawn, by step and by minutes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import TypeVar

from xlm.reports.files import Point
from xlm.reports.quantities import is_loss, kinds_in_words, loss_kind
from xlm.reports.run import Run

T = TypeVar("T")
MAX_POINTS = 240
# A pause this many times the usual one was no training: the run had been stopped.
_LONG_PAUSE = 20.0
_LAST = ("lr", "tokens_per_second", "examples_per_second")
_LEFT_OUT = ("samples_per_second", "network_calls", "examples_per_second")


@dataclass(frozen=True)
class Curve:
    """The values of one run: index of the run, steps, minutes, values."""

    run: int
    steps: list[float]
    minutes: list[float]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """One metric; `averaged` says that points are means over several logged values.

    `kind`: of a loss, in words, where the runs' losses are different quantities; each then has a panel of its own.
    """

    name: str
    curves: list[Curve]
    averaged: bool
    kind: str = ""


def panels(runs: Sequence[Run]) -> list[Panel]:
    """A panel for each logged metric: those of most runs and losses first, learning rate and speed last."""
    found: dict[str, list[tuple[int, list[tuple[float, float, float]]]]] = defaultdict(list)
    for index, run in enumerate(runs):
        for name, points in by_name(run.points).items():
            found[name].append((index, points))
    result = []
    for name in sorted(found, key=lambda name: (_order(name)[0], -len(found[name]), *_order(name))):
        for kind, series in _by_kind(runs, name, found[name]).items():
            averaged = any(len(points) > MAX_POINTS for _, points in series)
            if any(len(points) > 1 for _, points in series):
                result.append(Panel(name, [_curve(index, thinned(points)) for index, points in series], averaged, kind))
    return result


def _by_kind(runs: Sequence[Run], name: str, series: list[tuple[int, T]]) -> dict[str, list[tuple[int, T]]]:
    """The series of a metric, those of losses apart that are different quantities; with the kind in words."""
    kinds = [loss_kind(runs[index], name) if is_loss(name) else () for index, _ in series]
    if len(set(kinds)) < 2:
        return {"": series}
    words = kinds_in_words(kinds)
    found: dict[str, list[tuple[int, T]]] = {said: [] for said in words.values()}
    for kind, one in zip(kinds, series, strict=True):
        found[words[kind]].append(one)
    return found


def by_name(points: Sequence[Point]) -> dict[str, list[tuple[float, float, float]]]:
    """Metric → (step, minutes, value) in order of steps; test values are no curve."""
    minutes = training_minutes([point.time for point in points])
    found: dict[str, dict[int, tuple[float, float, float]]] = defaultdict(dict)
    for point in points:
        split, _, rest = point.name.partition("/")
        if split != "test" and rest.rpartition("/")[2] not in _LEFT_OUT:
            found[point.name][point.step] = (point.step, minutes[point.time], point.value)
    return {name: [rows[step] for step in sorted(rows)] for name, rows in found.items()}


def training_minutes(times: Sequence[float]) -> dict[float, float]:
    """Each time on a clock that starts with the first and stands still while the run was stopped."""
    distinct = sorted(set(times))
    pauses = [b - a for a, b in pairwise(distinct)]
    usual = median(pauses) if pauses else 0.0
    clock, seconds = 0.0, {distinct[0]: 0.0} if distinct else {}
    for at, pause in zip(distinct[1:], pauses, strict=True):
        clock += usual if pause > max(600.0, _LONG_PAUSE * usual) else pause
        seconds[at] = clock
    return {at: value / 60 for at, value in seconds.items()}


def thinned(points: Sequence[tuple[float, float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float, float]]:
    """At most `limit` points, each the mean of neighbours."""
    size = -(-len(points) // limit)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(p[0] for p in g), fmean(p[1] for p in g), fmean(p[2] for p in g)) for g in groups]


def _curve(index: int, points: Sequence[tuple[float, float, float]]) -> Curve:
    steps, minutes, values = zip(*points, strict=True)
    return Curve(index, [round(s, 1) for s in steps], [round(m, 3) for m in minutes], [_rounded(v) for v in values])


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _order(name: str) -> tuple[bool, bool, int, str]:
    split, _, rest = name.partition("/")
    metric = rest.rpartition("/")[2]
    return metric in _LAST, "loss" not in metric, {"train": 0, "val": 1}.get(split, 2), name

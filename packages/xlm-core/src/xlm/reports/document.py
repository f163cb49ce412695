"""The content of a report, independent of its form: tables, learning curves, pairs, settings and samples."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any, TypeVar

from xlm.reports.files import Point, number
from xlm.reports.listing import main_loss, main_match
from xlm.reports.pairs import Paired, Row, all_pairs, same_examples, side_by_side, why_no_pairs
from xlm.reports.quantities import (
    HIGHER,
    LOWER,
    Kind,
    is_loss,
    kinds_in_words,
    loss_kind,
    metric_title,
    remarks,
    wilson_interval,
)
from xlm.reports.run import Measured, Run, is_share
from xlm.utils.choices import GROUPS, choices_of, chosen_first, typed_keys

T = TypeVar("T")
MAX_POINTS = 240
# A pause this many times longer than usual means that the run was stopped, so it does not count as training time.
_LONG_PAUSE = 20.0
_LAST = ("lr", "tokens_per_second", "examples_per_second", "padding", "mfu")
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

    `kind`: the kind of a loss in words, if the runs' losses are different quantities; each kind then has its own panel.
    """

    name: str
    curves: list[Curve]
    averaged: bool
    kind: str = ""

    @property
    def is_moving(self) -> bool:
        """Whether the metric changes in at least one run."""
        return any(len(set(curve.values)) > 1 for curve in self.curves)


def panels(runs: Sequence[Run]) -> list[Panel]:
    """A panel for each metric that changes: those of most runs first, losses first, learning rate and speed last."""
    return [panel for panel in _all_panels(runs) if panel.is_moving]


def constants(found: Sequence[Panel]) -> dict[str, str]:
    """Name (and kind) → value of the metrics that have one value in each run, in which case a curve shows nothing."""
    return {
        f"{panel.name}{', ' if panel.kind else ''}{panel.kind}": " to ".join(dict.fromkeys(map(decimals, ends)))
        for panel in found
        if not panel.is_moving
        for lasts in [[curve.values[-1] for curve in panel.curves]]
        for ends in [(min(lasts), max(lasts))]
    }


def _all_panels(runs: Sequence[Run]) -> list[Panel]:
    found: dict[str, list[tuple[int, list[tuple[float, float, float]]]]] = defaultdict(list)
    for index, run in enumerate(runs):
        for name, points in by_name(run.points).items():
            found[name].append((index, points))
    result = []
    for name in sorted(found, key=lambda name: (_order(name)[0], -len(found[name]), *_order(name))):
        for kind, series in _by_kind(runs, name, found[name]).items():
            averaged = any(len(points) > MAX_POINTS for _, points in series)
            result.append(Panel(name, [_curve(index, thinned(points)) for index, points in series], averaged, kind))
    return result


def _by_kind(runs: Sequence[Run], name: str, series: list[tuple[int, T]]) -> dict[str, list[tuple[int, T]]]:
    """The series of a metric by kind, in words; losses that are different quantities are separated."""
    kinds = [loss_kind(runs[index], name) if is_loss(name) else () for index, _ in series]
    if len(set(kinds)) < 2:
        return {"": series}
    words = kinds_in_words(kinds)
    found: dict[str, list[tuple[int, T]]] = {said: [] for said in words.values()}
    for kind, one in zip(kinds, series, strict=True):
        found[words[kind]].append(one)
    return found


def by_name(points: Sequence[Point]) -> dict[str, list[tuple[float, float, float]]]:
    """Metric → (step, minutes, value) in order of steps; test values are left out."""
    minutes = training_minutes([point.time for point in points])
    found: dict[str, dict[int, tuple[float, float, float]]] = defaultdict(dict)
    for point in points:
        split, _, rest = point.name.partition("/")
        if split != "test" and rest.rpartition("/")[2] not in _LEFT_OUT:
            found[point.name][point.step] = (point.step, minutes[point.time], point.value)
    return {name: [rows[step] for step in sorted(rows)] for name, rows in found.items()}


def training_minutes(times: Sequence[float]) -> dict[float, float]:
    """Minutes since the first time for each time, without the time during which the run was stopped."""
    distinct = sorted(set(times))
    pauses = [b - a for a, b in pairwise(distinct)]
    usual = median(pauses) if pauses else 0.0
    clock, seconds = 0.0, {distinct[0]: 0.0} if distinct else {}
    for at, pause in zip(distinct[1:], pauses, strict=True):
        clock += usual if pause > max(600.0, _LONG_PAUSE * usual) else pause
        seconds[at] = clock
    return {at: value / 60 for at, value in seconds.items()}


def thinned(points: Sequence[tuple[float, float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float, float]]:
    """At most `limit` points, each the mean of neighboring points."""
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


# The place and name of a run are not settings.
_NOT_SETTINGS = ("job_name", "job_type", "paths", "hydra", "eval", "generation")
MISSING = "–"
# Deeper than any configuration; YAML can contain itself.
_MAX_DEPTH = 40


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Key → its value in each run, for keys that differ; runs without a configuration are ignored.

    What a person chose comes first: `experiment=`, `model_type=` and other groups where they are recorded, then
    the keys of the commands. Values are as written: interpolations are kept, since the keys that they refer to are
    compared too.
    """
    recorded = [choices_of(run.started, {}) for run in runs]
    settings = [
        {**{f"{group}=": member for group, member in choices.items()}, **dict(leaves(run.config))}
        for run, choices in zip(runs, recorded, strict=True)
    ]
    read = [found for found, run in zip(settings, runs, strict=True) if run.config]
    groups = [f"{group}=" for group in GROUPS]
    typed = [*groups, "model_name", *(key for run in runs for key in typed_keys(run.command))]
    keys = [key for key in groups if any(key in found for found in read)]
    keys += [key for key in chosen_first({key for found in read for key in found}, typed) if key not in groups]
    return {
        key: [found.get(key, MISSING) for found in settings]
        for key in keys
        if len({found.get(key, MISSING) for found in read}) > 1
    }


def leaves(node: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Dotted key and text of every value below `node`; lists are treated as values."""
    if isinstance(node, Mapping) and depth < _MAX_DEPTH:
        for name, child in node.items():
            if key or name not in _NOT_SETTINGS:
                yield from leaves(child, f"{key}.{name}" if key else str(name), depth + 1)
    elif key:
        yield key, node if isinstance(node, str) else _as_text(node)


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return str(type(value).__name__)


NUM_EXAMPLES = 12
# Level of the tests of paired comparisons.
_LEVEL = 0.05
# More runs than this are all in the tables of results; the other parts show the best of them.
MAX_COMPARED = 24


@dataclass(frozen=True)
class Column:
    """A metric as a column: its full name and how it is shown."""

    name: str
    label: str
    better: int  # 1: higher, -1: lower, 0: neither
    kind: Kind | None = None  # for a loss: the column contains only losses of this kind


@dataclass(frozen=True)
class Values:
    """The measured values of one split, a row for each run.

    `best` has (row, column) of the values that are better than all others on the same dataset by more than the error.
    `remarks` are sentences about numbers that are not compared.
    """

    split: str
    columns: list[Column]
    rows: list[list[Measured | None]]
    best: set[tuple[int, int]]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Samples:
    """Predictions of several runs for the same examples: `rows[example][run]`."""

    place: str
    names: list[str]
    rows: list[list[Row]]
    num_examples: int


@dataclass(frozen=True)
class Report:
    """The content of a report; `made` is the time when it was made, `state` the runs' states then.

    `compared` are the runs of `costs`, `panels`, `pairs`, `differences` and `samples`: all, or the best of many.
    `constants` are the logged metrics without a panel. `no_pairs` is the reason if several runs have no `pairs`.
    """

    title: str
    made: str
    runs: list[Run]
    states: list[str]
    values: list[Values]
    costs: dict[str, list[str]]
    panels: list[Panel]
    pairs: list[Paired]
    differences: dict[str, list[str]]
    samples: list[Samples]
    compared: list[Run]
    constants: dict[str, str] = field(default_factory=dict)
    no_pairs: str = ""


def compared_runs(runs: Sequence[Run]) -> list[Run]:
    """At most `MAX_COMPARED` runs, in their order: those with the best exact match, then with the smallest loss."""
    if len(runs) <= MAX_COMPARED:
        return list(runs)
    best = sorted(range(len(runs)), key=lambda index: _goodness(runs[index]))[:MAX_COMPARED]
    return [runs[index] for index in sorted(best)]


def _goodness(run: Run) -> tuple[float, float]:
    match, loss = main_match(run), main_loss(run)
    return -match[1].value if match else 0.0, loss[1].value if loss else math.inf


def build_report(runs: Sequence[Run], title: str | None = None, split: str | None = None) -> Report:
    """Read the predictions of the runs, and build the report.

    Args:
        runs: at least one.
        title: by default the names.
        split: `test` or `val`, for the comparison of predictions; by default test, otherwise val.
    """
    compared = compared_runs(runs)
    groups = same_examples(compared, split)
    samples = []
    for group in groups:
        rows = list(group.predictions.values())
        samples.append(
            Samples(group.place, list(group.predictions), side_by_side(rows, NUM_EXAMPLES), min(map(len, rows)))
        )
    pairs = all_pairs(groups)
    values = [_values(runs, name, pairs) for name in ("test", "val")]
    logged = _all_panels(compared)
    return Report(
        title or _title(runs),
        time.strftime("%Y-%m-%d %H:%M"),
        list(runs),
        [run.state() for run in runs],
        [one for one in values if one.columns],
        costs(compared),
        [panel for panel in logged if panel.is_moving],
        pairs,
        differing_settings(compared),
        samples,
        compared,
        constants(logged),
        "" if pairs else why_no_pairs(compared, groups, split),
    )


def interval(name: str, measured: Measured) -> tuple[float, float] | None:
    """95 % interval of a value: a score interval for shares of examples, otherwise ± 1.96 standard errors."""
    if is_share(name) and measured.n and 0 <= measured.value <= 1:
        return wilson_interval(measured.value, measured.n)
    if measured.error is None:
        return None
    return measured.value - 1.96 * measured.error, measured.value + 1.96 * measured.error


def costs(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The cost of each run, as text: sizes, throughput, time, memory, and what the numbers depend on."""
    rows = {
        "parameters": [_count(run.results.get("parameters")) for run in runs],
        "optimizer steps": [_steps(run) for run in runs],
        "tokens per second": [_count(run.tokens_per_second) for run in runs],
        "CPU minutes": [_minutes(run.training.get("cpu_seconds")) for run in runs],
        "wall minutes": [_minutes(run.training.get("wall_seconds")) for run in runs],
        "peak memory, MiB": [_count(run.training.get("peak_memory_mib")) for run in runs],
        "device": [_text(run.started.get("device")) for run in runs],
        "precision": [_text(run.started.get("precision")) for run in runs],
        "seed": [_text(run.started.get("seed")) for run in runs],
        "git commit": [_commit(run) for run in runs],
        "started": [_text(run.started.get("started")).replace("T", " ")[:16] for run in runs],
    }
    versions = {name for run in runs for name in _versions(run)}
    for name in sorted(versions):
        said = [_versions(run).get(name, "–") for run in runs]
        if len(set(said)) > 1:
            rows[f"version of {name}"] = said
    return {name: row for name, row in rows.items() if set(row) != {"–"}}


def decimals(value: float) -> str:
    """A number with four significant digits, without an exponent if it is readable without one."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 4 - len(str(int(abs(value)))))}f}"


metric_label = metric_title


def _values(runs: Sequence[Run], split: str, pairs: Sequence[Paired]) -> Values:
    names = {name for run in runs for name in run.measured if name.startswith(f"{split}/")}
    metrics = [name.rpartition("/")[2] for name in names]
    columns = []
    for name in sorted(names, key=lambda name: (_rank(name), name)):
        loader, metric = name.split("/", 1)[1].rpartition("/")[::2]
        label = metric_label(metric) if metrics.count(metric) == 1 else f"{metric_label(metric)} ({loader})"
        better = 1 if metric in HIGHER else -1 if metric in LOWER else 0
        kinds = kinds_in_words(loss_kind(run, name) for run in runs if name in run.measured) if is_loss(name) else {}
        if len(kinds) > 1:
            columns += [Column(name, f"{label}, {words}", better, kind) for kind, words in kinds.items()]
        else:
            columns.append(Column(name, label, better))
    rows = [[_value(run, column) for column in columns] for run in runs]
    return Values(split, columns, rows, _best(runs, columns, rows, pairs), remarks(runs, split))


def _value(run: Run, column: Column) -> Measured | None:
    if column.kind is not None and loss_kind(run, column.name) != column.kind:
        return None
    return run.measured.get(column.name)


def _rank(name: str) -> int:
    metric = name.rpartition("/")[2]
    order = (
        "exact_match",
        "token_accuracy",
        "accumulated_loss",
        "nll_per_token",
        "perplexity",
        "network_calls",
        "samples_per_second",
    )
    return order.index(metric) if metric in order else len(order)


def _best(
    runs: Sequence[Run],
    columns: Sequence[Column],
    rows: Sequence[Sequence[Measured | None]],
    pairs: Sequence[Paired],
) -> set[tuple[int, int]]:
    """Values that are better than those of all other runs of the dataset, by more than the error.

    Losses and bounds of different families measure different things, so they are compared within one family only.
    """
    tested = {(pair.place, *order): pair for pair in pairs for order in _orders(pair)}
    best = set()
    for j, column in enumerate(columns):
        kin: dict[tuple[str, ...], list[tuple[int, Measured]]] = {}
        for i, run in enumerate(runs):
            if column.better and (measured := rows[i][j]) is not None:
                family = () if column.better > 0 or column.name.endswith("network_calls") else (run.model,)
                kin.setdefault((run.data, *family), []).append((i, measured))
        for group in kin.values():
            first, *others = sorted(group, key=lambda entry: -column.better * entry[1].value)
            place = column.name.rpartition("/")[0] if column.name.endswith("/exact_match") else ""
            tests = [tested.get((place, runs[first[0]].name, runs[i].name)) for i, _ in others]
            if others and all(
                first[1].value != other.value and (pair.p_holm < _LEVEL if pair else _differ(column, first[1], other))
                for pair, (_, other) in zip(tests, others, strict=True)
            ):
                best.add((first[0], j))
    return best


def _orders(pair: Paired) -> tuple[tuple[str, str], tuple[str, str]]:
    return (pair.first, pair.second), (pair.second, pair.first)


def _differ(column: Column, better: Measured, worse: Measured) -> bool:
    """Whether the 95 % interval of the difference of two independent values excludes 0.

    From the intervals of both: Newcombe, Interval estimation for the difference between independent proportions
    (method 10), Statist. Med. 17 (1998). A value without a known error counts as exact.
    """
    high, low = (better, worse) if column.better > 0 else (worse, better)
    down = high.value - (interval(column.name, high) or (high.value, high.value))[0]
    up = (interval(column.name, low) or (low.value, low.value))[1] - low.value
    return high.value - low.value > math.hypot(down, up)


def _title(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    return " · ".join(names) if len(names) <= 4 else f"{len(names)} runs: {', '.join(names[:3])}, …"


def _versions(run: Run) -> dict[str, str]:
    versions = run.started.get("versions")
    return {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}


def _steps(run: Run) -> str:
    if run.step is None:
        return "–"
    return f"{run.step:,}" if run.max_steps in (None, run.step) else f"{run.step:,} of {run.max_steps:,}"


def _commit(run: Run) -> str:
    git = run.started.get("git")
    if not isinstance(git, dict):
        return "–"
    return _text(git.get("commit"))[:10] + (" + changes" if git.get("changed") else "")


def _count(value: object) -> str:
    found = number(value)
    return "–" if found is None else f"{found:,.0f}"


def _minutes(value: object) -> str:
    found = number(value)
    return "–" if found is None else f"{found / 60:.1f}"


def _text(value: object) -> str:
    return "–" if value is None else str(value)

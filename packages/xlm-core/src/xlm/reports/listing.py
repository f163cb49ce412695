"""Runs as a table for a terminal, and as objects for programs."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

from xlm.errors import ConfigError, as_line, did_you_mean, nearest_names
from xlm.reports.files import number
from xlm.reports.quantities import HIGHER, Kind, loss_kind, losses_remark
from xlm.reports.run import Measured, Run
from xlm.utils.columns import Column, table_lines

SORTS: dict[str, Callable[[Run], Any]] = {
    "age": lambda run: -run.written,
    "date": lambda run: run.written,
    "name": lambda run: run.name,
    "model": lambda run: (run.model, run.name),
    "data": lambda run: (run.data, run.name),
    "step": lambda run: -(run.step or 0),
    "match": lambda run: -_value(main_match(run), -1.0),
    "loss": lambda run: _by_kind(run, main_loss(run)),
    "state": lambda run: (run.state(), run.name),
}
_NEEDS: dict[str, Callable[[Run], Any]] = {
    "step": lambda run: run.step,
    "match": lambda run: main_match(run),
    "loss": lambda run: main_loss(run),
}
_SORTED_APART = "sort=loss sorts each of them separately"


def main_match(run: Run) -> tuple[str, Measured] | None:
    """The run's exact match, on test data if available, with its name."""
    return _first(run, "exact_match")


def main_loss(run: Run) -> tuple[str, Measured] | None:
    """The run's loss on held-out data, on test data if available, with its name."""
    return _first(run, "accumulated_loss")


def sort_runs(runs: Sequence[Run], by: str) -> list[Run]:
    """The runs in an order of `SORTS`, or the best first by any metric; `-` reverses it. Runs without it are last.

    Raises:
        ConfigError: an unknown order.
    """
    reverse, name = by.startswith("-"), by.removeprefix("-")
    if name in SORTS:
        without = [run for run in runs if name in _NEEDS and _NEEDS[name](run) is None]
        having = [run for run in runs if all(run is not other for other in without)]
        return [*sorted(having, key=SORTS[name], reverse=reverse), *without]
    metric = metric_of(runs, by)
    if metric is None:
        metrics = sorted({metric for run in runs for metric in run.measured})
        hint = did_you_mean(nearest_names(name, [*SORTS, *metrics], 1))
        raise ConfigError(
            f"Runs cannot be sorted by '{name}'. Choose one of: {', '.join(SORTS)}, or a metric of these runs: "
            f"{', '.join(metrics) or 'none'}. {hint}".rstrip(),
            key="sort",
        )
    sign = (-1 if metric.rpartition("/")[2] in HIGHER else 1) * (-1 if reverse else 1)
    return sorted(runs, key=lambda run: sign * run.measured[metric].value if metric in run.measured else math.inf)


def metric_of(runs: Sequence[Run], by: str) -> str | None:
    """The metric that an order names, in full or by its end (`valid`, `prediction/valid`), on test data if possible."""
    name = by.removeprefix("-")
    metrics = sorted({metric for run in runs for metric in run.measured if f"/{metric}".endswith(f"/{name}")})
    known = [metric for split in ("test/", "val/", "") for metric in metrics if metric.startswith(split)]
    return None if name in SORTS or not known else name if name in metrics else known[0]


def as_lines(
    runs: Sequence[Run], width: int | None = None, now: float | None = None, metric: str | None = None
) -> list[str]:
    """A header and the runs, at most `width` wide; None: one line each. `metric`, an order, may add a column."""
    now = time.time() if now is None else now
    titles = ["name", "model", "data", "step", "match", "loss", "state", "age"]
    rows = [_row(run, now) for run in runs]
    metric = None if metric is None else metric_of(runs, metric)
    if metric is not None:
        titles.insert(-2, metric)
        for row, run in zip(rows, runs, strict=True):
            row.insert(-2, _cell(run, metric))
    # Empty columns are left out.
    used = [i for i in range(len(titles)) if any(row[i] != "-" for row in rows)]
    columns = [Column(titles[i], is_figure=titles[i] in ("step", "match", "loss", metric, "age")) for i in used]
    lines = table_lines(columns, [[row[i] for i in used] for row in rows], width)
    if any(cell.endswith("*") for row in rows for cell in row[3:]):
        lines += ["", *_sentence("* on validation data; other values are on test data", width)]
    remarks = losses_remark([(run, found[0]) for run in runs if (found := main_loss(run))], _SORTED_APART)
    return lines + [line for remark in remarks for line in _sentence(remark, width)]


def _sentence(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, width)


def _cell(run: Run, metric: str) -> str:
    return f"{run.measured[metric].value:.4g}" if metric in run.measured else "-"


def as_object(run: Run) -> dict[str, Any]:
    """Everything in the table about a run, and every measured value."""
    return {
        "name": run.name,
        "folder": str(run.folder),
        "model": run.model,
        "data": run.data,
        "state": run.state(),
        "step": run.step,
        "max_steps": run.max_steps,
        "written": run.written,
        "parameters": _finite(run.results.get("parameters")),
        "training": {name: _finite(value) for name, value in run.training.items()},
        "metrics": {
            name: {"value": m.value, "standard_error": m.error, "n": m.n, "source": m.source}
            for name, m in sorted(run.measured.items())
        },
        "problems": run.problems,
    }


def _finite(value: Any) -> Any:
    """A number of a file; None for what JSON has no number for."""
    return None if number(value) is None else value


def _by_kind(run: Run, loss: tuple[str, Measured] | None) -> tuple[bool, Kind, float]:
    """Orders losses within their kind; runs without one come last."""
    return (False, loss_kind(run, loss[0]), loss[1].value) if loss else (True, (), 0.0)


def age(seconds: float) -> str:
    """A duration in one unit: `42 s`, `5 min`, `3 h`, `12 d`."""
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(max(0, seconds) / size)} {unit}"
    return f"{int(seconds / 86400)} d"


def _row(run: Run, now: float) -> list[str]:
    step, total = run.step, run.max_steps
    state = run.state(now)
    steps = "-" if step is None else str(step)
    if step is not None and total and total != step and state != "finished":
        steps = f"{step}/{total}"
    shown = [as_line(text) for text in (run.name, run.model, run.data)]
    return [*shown, steps, _shown(main_match(run)), _shown(main_loss(run)), state, age(now - run.written)]


def _first(run: Run, metric: str) -> tuple[str, Measured] | None:
    for split in ("test", "val"):
        for name in sorted(run.measured):
            if name.startswith(f"{split}/") and name.endswith(f"/{metric}"):
                return name, run.measured[name]
    return None


def _shown(found: tuple[str, Measured] | None) -> str:
    if found is None:
        return "-"
    return f"{found[1].value:.3f}{'*' if found[0].startswith('val/') else ''}"


def _value(found: tuple[str, Measured] | None, otherwise: float) -> float:
    return otherwise if found is None else found[1].value

"""Runs as a table with one line each, for a terminal, and as objects for programs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from xlm.errors import ConfigError, as_line, did_you_mean, nearest_names
from xlm.reports.quantities import HIGHER, Kind, loss_kind, losses_remark
from xlm.reports.run import Measured, Run

SORTS: dict[str, Callable[[Run], Any]] = {
    "age": lambda run: -run.written,
    "name": lambda run: run.name,
    "model": lambda run: (run.model, run.name),
    "data": lambda run: (run.data, run.name),
    "step": lambda run: -(run.step or 0),
    "match": lambda run: -_value(main_match(run), -1.0),
    "loss": lambda run: _by_kind(run, main_loss(run)),
    "state": lambda run: (run.state(), run.name),
}
_MIN_NAME = 12
_SORTED_APART = "sort=loss sorts each of them separately"


def main_match(run: Run) -> tuple[str, Measured] | None:
    """The run's exact match, on test data if available, with its name."""
    return _first(run, "exact_match")


def main_loss(run: Run) -> tuple[str, Measured] | None:
    """The run's loss on held-out data, on test data if available, with its name."""
    return _first(run, "accumulated_loss")


def sort_runs(runs: Sequence[Run], by: str) -> list[Run]:
    """The runs, best or newest first, also by any metric; those without it last. ConfigError for an unknown order."""
    if by in SORTS:
        return sorted(runs, key=SORTS[by])
    metrics = sorted({name for run in runs for name in run.measured})
    if by not in metrics:
        hint = did_you_mean(nearest_names(by, [*SORTS, *metrics], 1))
        raise ConfigError(
            f"Runs cannot be sorted by '{by}'. Choose one of: {', '.join(SORTS)}, or a metric of these runs: "
            f"{', '.join(metrics) or 'none'}. {hint}".rstrip(),
            key="sort",
        )
    sign = -1 if by.rpartition("/")[2] in HIGHER else 1
    return sorted(runs, key=lambda run: sign * run.measured[by].value if by in run.measured else math.inf)


def as_lines(
    runs: Sequence[Run], width: int | None = None, now: float | None = None, metric: str | None = None
) -> list[str]:
    """A header and a line for each run, at most `width` wide; None doesn't shorten names. `metric` adds a column."""
    now = time.time() if now is None else now
    rows = [["name", "model", "data", "step", "match", "loss", "state", "age"]]
    rows += [_row(run, now) for run in runs]
    if metric is not None and metric not in SORTS:
        for row, cell in zip(rows, [metric, *(_cell(run, metric) for run in runs)], strict=True):
            row.insert(-2, cell)
    # Empty columns are left out.
    rows = [list(row) for row in zip(*(c for c in zip(*rows, strict=True) if set(c[1:]) != {"-"}), strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        widths[0] = max(_MIN_NAME, min(widths[0], width - sum(widths[1:]) - 2 * (len(widths) - 1)))
    numbers = [rows[0].index(title) for title in ("step", "match", "loss", metric, "age") if title in rows[0]]
    lines = []
    for row in rows:
        cells = [_shortened(row[0], widths[0]), *row[1:]]
        parts = [
            f"{c:>{w}}" if i in numbers else f"{c:{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    if any(cell.endswith("*") for row in rows[1:] for cell in row[1:]):
        lines += ["", "* on validation data; other values are on test data"]
    return lines + losses_remark([(run, found[0]) for run in runs if (found := main_loss(run))], _SORTED_APART)


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
        "parameters": run.results.get("parameters"),
        "training": dict(run.training),
        "metrics": {
            name: {"value": m.value, "standard_error": m.error, "n": m.n, "source": m.source}
            for name, m in sorted(run.measured.items())
        },
        "problems": run.problems,
    }


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


def _shortened(text: str, width: int) -> str:
    """`text` without its middle if it is longer than `width`: names differ most at their ends."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[-end:]}"

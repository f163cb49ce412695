"""A sampler's quality against what it costs: the best trade-offs of a sweep, as tables and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from xlm.utils.files import replace_text

Cost = Literal["network_calls", "seconds"]
COSTS: tuple[Cost, ...] = ("network_calls", "seconds")


@dataclass(frozen=True)
class Point:
    """One setting of a sampler, measured.

    Args:
        options: those that the sweep varies.
        metrics: mean and standard error over the examples, by name; the first is the quality.
        n: examples.
        network_calls: mean of a sample; None where the predictor doesn't tell.
        seconds: for all examples, the sampler alone.
    """

    options: dict[str, Any]
    metrics: dict[str, tuple[float, float]]
    n: int
    network_calls: float | None
    seconds: float

    @property
    def samples_per_second(self) -> float:
        return self.n / self.seconds

    def cost(self, kind: Cost) -> float | None:
        """Network calls of a sample, or seconds of all."""
        return self.network_calls if kind == "network_calls" else self.seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Point:
        """What `as_dict` gave, also after JSON."""
        metrics = {name: (float(mean), float(error)) for name, (mean, error) in values["metrics"].items()}
        return cls(**{**values, "metrics": metrics})


def front(points: Sequence[Point], quality: str, cost: Cost) -> list[Point]:
    """The points that no other beats in quality at the same cost or less, cheapest first."""
    known = [(spent, -point.metrics[quality][0], place) for place, point in enumerate(points)
             if (spent := point.cost(cost)) is not None]  # fmt: skip
    best: list[Point] = []
    for _, _, place in sorted(known):
        if not best or points[place].metrics[quality][0] > best[-1].metrics[quality][0]:
            best.append(points[place])
    return best


def table(points: Sequence[Point], quality: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text; `best` says of which costs a point is on the front."""
    options = list(points[0].options)
    metrics = list(points[0].metrics)
    fronts = {cost: front(points, quality, cost) for cost in COSTS}
    header = [*options, *(text for name in metrics for text in (name, f"{name}_se")), "n", "network_calls", "seconds"]
    rows = []
    for point in points:
        numbers = [f"{value:.4f}" for name in metrics for value in point.metrics[name]]
        calls = "" if point.network_calls is None else f"{point.network_calls:.2f}"
        best = " ".join(cost for cost in COSTS if any(point is other for other in fronts[cost]))
        settings = [_shown(point.options[name]) for name in options]
        spent = [f"{point.seconds:.2f}", f"{point.samples_per_second:.1f}"]
        rows.append([*settings, *numbers, str(point.n), calls, *spent, best])
    return [*header, "samples_per_second", "best"], rows


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write_tables(folder: Path, points: Sequence[Point], quality: str) -> None:
    """`sweep.csv` and `sweep.md`, each replaced in one step."""
    header, rows = table(points, quality)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    replace_text(folder / "sweep.csv", text.getvalue())
    lines = [header, ["---"] * len(header), *rows]
    replace_text(folder / "sweep.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def draw(path: Path, points: Sequence[Point], quality: str, title: str) -> Path:
    """A PNG: quality, with its standard error, against network calls and against seconds; the front is a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    labels = {"network_calls": "network calls of a sample", "seconds": f"seconds for {points[0].n:,} samples"}
    for place, cost in enumerate(COSTS, 1):
        axes = figure.add_subplot(1, 2, place)
        for points_shown, form, color in ((points, "o", "0.6"), (front(points, quality, cost), "o-", "C0")):
            known = [(spent, point) for point in points_shown if (spent := point.cost(cost)) is not None]
            x = [spent for spent, _ in known]
            y, errors = ([point.metrics[quality][i] for _, point in known] for i in (0, 1))
            label = "best trade-offs" if color == "C0" else None
            axes.errorbar(x, y, errors, fmt=form, color=color, capsize=2, label=label)
        for spent, point in known:
            text = ", ".join(f"{name} {_shown(value)}" for name, value in point.options.items())
            axes.annotate(text, (spent, point.metrics[quality][0]), (5, -10), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.set_xlabel(labels[cost])
        axes.set_ylabel(quality.replace("_", " "))
        axes.margins(x=0.25)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path

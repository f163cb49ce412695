"""Quality and cost of sampler settings: the best trade-offs of a sweep, as tables and as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Gt

from xlm.utils.annotations import Count, NonNegative, Number
from xlm.utils.files import replace_text
from xlm.utils.text import csv_cell

Cost = Literal["network_calls", "seconds"]
COSTS: tuple[Cost, ...] = ("network_calls", "seconds")
# Lower is better; always shown with the entropy, since repetitive texts have a low perplexity and a low entropy.
# The name of a perplexity may end with the judge's protocol.
PERPLEXITY, ENTROPY = "judge_perplexity", "entropy"


class StoredPoint(TypedDict):
    """A `Point` as JSON."""

    options: dict[str, Any]
    metrics: dict[str, tuple[Number | None, NonNegative | None]]
    n: Count
    network_calls: NonNegative | None
    seconds: Annotated[Number, Gt(0)]


@dataclass(frozen=True)
class Point:
    """One measured setting of a sampler.

    Args:
        options: the options that the sweep varies.
        metrics: value and standard error over the examples (None: unknown), by name; the first is the quality.
        n: examples.
        network_calls: mean per sample; None if the predictor doesn't count them.
        seconds: for all examples, the sampler alone.
    """

    options: dict[str, Any]
    metrics: dict[str, tuple[float, float | None]]
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
        """Plain values, for JSON: None for an undefined metric."""
        metrics = {name: (None if math.isnan(value) else value, error) for name, (value, error) in self.metrics.items()}
        return {**asdict(self), "metrics": metrics}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Point:
        """The inverse of `as_dict`, also after JSON; other keys are ignored."""
        metrics = {
            name: (math.nan if value is None else float(value), None if error is None else float(error))
            for name, (value, error) in values["metrics"].items()
        }
        return cls(values["options"], metrics, values["n"], values["network_calls"], values["seconds"])


def qualities(quality: str) -> list[str]:
    """The metrics shown for a quality: the quality, and for a perplexity also the entropy."""
    return [quality, ENTROPY] if quality.startswith(PERPLEXITY) else [quality]


def front(points: Sequence[Point], quality: str, cost: Cost) -> list[Point]:
    """The points that no other point beats in quality at the same or lower cost, cheapest first.

    A perplexity is beaten by a lower one whose entropy is not lower.
    """
    known = [(spent, [-good for good in _goods(point, quality)], place) for place, point in enumerate(points)
             if (spent := point.cost(cost)) is not None]  # fmt: skip
    best: list[Point] = []
    for _, _, place in sorted(known):
        goods = _goods(points[place], quality)
        if not any(all(a >= b for a, b in zip(_goods(other, quality), goods, strict=True)) for other in best):
            best.append(points[place])
    return best


def _goods(point: Point, quality: str) -> list[float]:
    """Numbers for which higher is better."""
    goods = [point.metrics[name][0] * (-1 if name.startswith(PERPLEXITY) else 1) for name in qualities(quality)]
    return [-math.inf if math.isnan(good) else good for good in goods]


def table(points: Sequence[Point], quality: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text; `best` names the costs for which a point is on the front."""
    options = list(points[0].options)
    metrics = list(points[0].metrics)
    fronts = {cost: front(points, quality, cost) for cost in COSTS}
    header = [*options, *(text for name in metrics for text in (name, f"{name}_se")), "n", "network_calls", "seconds"]
    rows = []
    for point in points:
        numbers = ["" if value is None else f"{value:.4f}" for name in metrics for value in point.metrics[name]]
        calls = "" if point.network_calls is None else f"{point.network_calls:.2f}"
        best = " ".join(cost for cost in COSTS if any(point is other for other in fronts[cost]))
        settings = [_shown(point.options[name]) for name in options]
        spent = [f"{point.seconds:.2f}", f"{point.samples_per_second:.1f}"]
        rows.append([*settings, *numbers, str(point.n), calls, *spent, best])
    return [*header, "samples_per_second", "best"], rows


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write_tables(folder: Path, points: Sequence[Point], quality: str) -> None:
    """Write `sweep.csv` and `sweep.md`, each replaced atomically."""
    header, rows = table(points, quality)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in [header, *rows])
    replace_text(folder / "sweep.csv", text.getvalue())
    lines = [header, ["---"] * len(header), *rows]
    replace_text(folder / "sweep.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def draw(path: Path, points: Sequence[Point], quality: str, title: str) -> Path:
    """A PNG: quality and its standard error against network calls and against seconds; the best points are marked.

    A perplexity has the entropy below it. If the quality is one number, a line connects the best points.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = qualities(quality)
    figure = Figure(figsize=(11, 4.6 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    labels = {"network_calls": "network calls per sample", "seconds": f"seconds for {points[0].n:,} samples"}
    for place, (name, cost) in enumerate(((name, cost) for name in names for cost in COSTS), 1):
        axes = figure.add_subplot(len(names), 2, place)
        _draw_points(axes, points, "o", "0.6", name, cost, None)
        form = "o-" if len(names) == 1 else "o"
        _draw_points(axes, front(points, quality, cost), form, "C0", name, cost, "best trade-offs")
        for point in points:
            if (spent := point.cost(cost)) is not None:
                text = ", ".join(f"{option} {_shown(value)}" for option, value in point.options.items())
                axes.annotate(text, (spent, point.metrics[name][0]), (5, -10), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.set_xlabel(labels[cost])
        axes.set_ylabel(name.replace("_", " ") + (" (lower is better)" if name.startswith(PERPLEXITY) else ""))
        axes.margins(x=0.25)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _draw_points(
    axes: Any, points: Sequence[Point], form: str, color: str, name: str, cost: Cost, label: str | None
) -> None:
    known = [(spent, *point.metrics[name]) for point in points if (spent := point.cost(cost)) is not None]
    errors = [error or 0.0 for _, _, error in known]
    axes.errorbar([x for x, _, _ in known], [y for _, y, _ in known], errors, fmt=form, color=color, capsize=2,
                  label=label)  # fmt: skip

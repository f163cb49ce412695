"""Quality and cost of sampler settings: the best trade-offs of a sweep, as tables and as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from annotated_types import Gt

from xlm.reports.quantities import axis_title, is_fraction, metric_title
from xlm.utils.annotations import Count, NonNegative, Number
from xlm.utils.figures import (
    WIDE,
    add_caption,
    add_legend,
    label_points,
    linear_axis,
    log_axis,
    new_figure,
    powers_of_two,
    save_figure,
    share_axis,
    style_axes,
)
from xlm.utils.files import replace_text
from xlm.utils.palette import SERIES, SOFT
from xlm.utils.text import csv_cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cost = Literal["network_calls", "seconds"]
COSTS: tuple[Cost, ...] = ("network_calls", "seconds")
# Lower is better; always shown with the entropy, since repetitive texts have a low perplexity and a low entropy.
# The name of a perplexity may end with the judge's protocol.
PERPLEXITY, ENTROPY = "judge_perplexity", "entropy"

# Inches: the height of a panel.
_PANEL = 3.4


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
    """A PNG of `sweep_figure`."""
    return save_figure(sweep_figure(points, quality, title), path)


def sweep_figure(points: Sequence[Point], quality: str, title: str) -> Figure:
    """Quality and its standard error against network calls, and below it against seconds; the best points are marked.

    A perplexity is followed by the entropy. If the quality is one number, a line connects the best points. Each point
    has the values of the swept options as its label, if there is room.
    """
    panels = [
        (name, cost) for name in qualities(quality) for cost in COSTS if any(p.cost(cost) is not None for p in points)
    ]
    figure = new_figure(title, _PANEL * len(panels) + 0.9)
    grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (name, cost) in zip(grid, panels, strict=True):
        _draw_panel(axes, points, quality, name, cost)
    named = f"The labels are {', '.join(points[0].options)}; bars are standard errors. "
    add_caption(figure, f"{named}sweep.md has all numbers.")
    # Labels are placed in the final layout.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, (name, cost) in zip(grid, panels, strict=True):
        best, others = _best_and_others(points, quality, name, cost)
        texts = [", ".join(map(_shown, point.options.values())) for point in (*best, *others)]
        label_points(axes, [_place(point, name, cost) for point in (*best, *others)], texts)
    return figure


def _draw_panel(axes: Axes, points: Sequence[Point], quality: str, name: str, cost: Cost) -> None:
    best, others = _best_and_others(points, quality, name, cost)
    x_titles = {"network_calls": "network calls per sample", "seconds": f"seconds for {points[0].n:,} samples"}
    better = " (lower is better)" if name.startswith(PERPLEXITY) else ""
    style_axes(axes, metric_title(name), x_titles[cost], f"{axis_title(name)}{better}")
    form = "o-" if len(qualities(quality)) == 1 else "o"
    handles = []
    for chosen, its_form, color, label in (
        (others, "o", SOFT, "other settings"), (best, form, SERIES[0], "best trade-offs"),
    ):  # fmt: skip
        if chosen:
            x, y, error = zip(*(_place(point, name, cost) for point in chosen), strict=True)
            handles += [axes.errorbar(x, y, error, None, its_form, color=color, label=label, capsize=3, markersize=7)]
    spent = [value for point in (*best, *others) if (value := point.cost(cost))]
    ticks = powers_of_two(min(spent, default=1.0), max(spent, default=1.0))
    log_axis(axes.xaxis, ticks)
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    linear_axis(axes.yaxis)
    axes.margins(y=0.15)
    if is_fraction(name):
        share_axis(axes)
    add_legend(axes, handles[::-1], WIDE)


def _best_and_others(points: Sequence[Point], quality: str, name: str, cost: Cost) -> tuple[list[Point], list[Point]]:
    """The points with a cost and a value: those on the front, cheapest first, and the others."""
    known = [point for point in points if point.cost(cost) is not None and math.isfinite(point.metrics[name][0])]
    best = front(known, quality, cost)
    return best, [point for point in known if not any(point is other for other in best)]


def _place(point: Point, name: str, cost: Cost) -> tuple[float, float, float]:
    value, error = point.metrics[name]
    return point.cost(cost) or 0.0, value, error or 0.0

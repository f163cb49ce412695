"""The picture of a training run: one panel for each logged quantity, with training and validation in the same panel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from xlm.reports.files import read_points
from xlm.reports.quantities import LOSS_SPAN, axis_title, is_fraction, metric_title
from xlm.utils.figures import (
    NARROW,
    WIDE,
    add_caption,
    add_legend,
    fits_beside,
    linear_axis,
    log_axis,
    log_ticks,
    new_figure,
    plain,
    save_figure,
    share_axis,
    style_axes,
)
from xlm.utils.palette import INK, SERIES, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = dict[str, list[tuple[int, float]]]
# Speed and schedule come last. Speeds in examples, and values that only describe the machine, have no panel.
_LAST = ("lr", "tokens_per_second")
_LEFT_OUT = ("examples_per_second", "samples_per_second", "mfu", "padding")
# Inches: a row of panels, and a line of a legend below one.
_ROW, _LEGEND_LINE = 2.75, 0.24
# A series with fewer points has a marker at each.
_FEW = 30
_BEST = "best"
# The same as LOSS_SPAN for other metrics.
_SPAN = 100.0


@dataclass(frozen=True)
class Best:
    """The best checkpoint: the full name of the monitored metric, its series, and the step and value of the best."""

    name: str
    step: int
    value: float

    @property
    def place(self) -> tuple[str, str]:
        """The panel and the series of the metric."""
        series, _, metric = self.name.rpartition("/")
        return metric, series


def collect(csv_path: Path) -> dict[str, Series]:
    """Panels of the picture: metric → series name (split/loader, or split) → pairs of step and (finite) value."""
    panels: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    for point in read_points(csv_path):
        series, _, metric = point.name.rpartition("/")
        if series and series.split("/")[0] != "test" and metric not in _LEFT_OUT:
            panels[metric][series].append((point.step, point.value))
    return {panel: dict(series) for panel, series in panels.items()}


def best_of(panels: Mapping[str, Series], monitor: str, mode: str = "min") -> Best | None:
    """The best value of the monitored metric, of equal ones the last, as in the best checkpoint; None without any."""
    series, _, metric = monitor.rpartition("/")
    points = panels.get(metric, {}).get(series, [])
    if not points:
        return None
    sign = 1 if mode == "min" else -1
    step, value = min(points, key=lambda point: (sign * point[1], -point[0]))
    return Best(monitor, step, value)


def draw_curves(
    csv_path: Path, png_path: Path, title: str, monitor: str | None = None, mode: str = "min"
) -> Path | None:
    """Write a PNG of the curves; None if there is nothing to draw, for example after a single step.

    Args:
        csv_path: the `metrics.csv` of the run; it need not exist.
        png_path: the picture.
        title: its title.
        monitor: the metric that chose the best checkpoint, which is then marked.
        mode: whether the best of it is the `min` or the `max`.
    """
    panels = collect(csv_path)
    figure = curves_figure(panels, title, None if monitor is None else best_of(panels, monitor, mode))
    return None if figure is None else save_figure(figure, png_path)


def curves_figure(panels: Mapping[str, Series], title: str, best: Best | None = None) -> Figure | None:
    """The figure, two panels in a row; values that never change are written below. None without a panel."""
    drawn, constant = without_constants(panels)
    if not drawn:
        return None
    order = sorted(drawn, key=lambda metric: (metric in _LAST, "loss" not in metric, not is_fraction(metric), metric))
    # With an odd number of panels, the first one is as wide as two.
    wide = len(order) % 2
    last = max(step for series in drawn.values() for points in series.values() for step, _ in points)
    rows = (len(order) + wide) // 2
    caption = _caption(constant, best)
    places = [index + wide if index else 0 for index in range(len(order))]
    widths = [WIDE if wide and not index else NARROW for index in range(len(order))]
    heights = [_ROW] * rows
    for metric, place, width in zip(order, places, widths, strict=True):
        labels = legend_labels(metric, drawn[metric], best)
        if labels and not fits_beside(metric_title(metric), labels, width):
            heights[place // 2] = max(heights[place // 2], _ROW + _LEGEND_LINE * (len(labels) // 2 + 1))
    figure = new_figure(title, sum(heights) + 0.6 + 0.2 * (len(caption) // 80 + bool(caption)))
    grid = figure.add_gridspec(rows, 2, height_ratios=heights)
    for metric, place, width in zip(order, places, widths, strict=True):
        axes = figure.add_subplot(grid[0, :] if width == WIDE else grid[place // 2, place % 2])
        _draw_panel(axes, metric, drawn[metric], best, width)
        axes.set_xlim(0, 1.03 * last)
    add_caption(figure, caption)
    return figure


def without_constants(panels: Mapping[str, Series]) -> tuple[dict[str, Series], dict[str, float]]:
    """The panels with a series that changes, without their constant series, and the constant values by full name.

    A single point stays in a panel that has another series.
    """
    drawn: dict[str, Series] = {}
    constant: dict[str, float] = {}
    for metric, series in panels.items():
        moving = {name for name, points in series.items() if len({value for _, value in points}) > 1}
        shown = {name: points for name, points in series.items() if name in moving or (moving and len(points) == 1)}
        if shown:
            drawn[metric] = shown
        constant |= {f"{name}/{metric}": points[-1][1] for name, points in series.items() if name not in shown}
    return drawn, constant


def is_logarithmic(metric: str, values: Sequence[float]) -> bool:
    """Whether an axis of these values is logarithmic: losses that span a decade, and others that grow or shrink by
    factors, such as the learning rate of a range test; a cosine schedule stays linear."""
    if min(values) <= 0 or is_fraction(metric):
        return False
    span = max(values) / min(values)
    if "loss" in metric or metric.startswith("nll") or "perplexity" in metric:
        return span >= LOSS_SPAN
    return span >= _SPAN and median(values) <= max(values) / 10


def _draw_panel(axes: Axes, metric: str, series: Series, best: Best | None, width: float) -> None:

    values = [value for points in series.values() for _, value in points]
    log = is_logarithmic(metric, values)
    names, colors = series_names(list(series)), series_colors(list(series))
    handles: list[Any] = []
    for name in sorted(series):
        steps, its = zip(*series[name], strict=True)
        is_training = name.startswith("train")
        look: dict[str, Any] = {"color": colors[name], "linewidth": 1.4 if is_training else 2.2}
        if len(steps) == 1 or (len(steps) < _FEW and not is_training):
            look |= {"marker": "o", "markersize": 5}
        handles += axes.plot(steps, its, label=names[name], **look)
    unit = axis_title(metric)
    style_axes(axes, metric_title(metric), "optimizer step", f"{unit} (log)" if log else unit)
    linear_axis(axes.xaxis, is_count=True)
    if log:
        log_axis(axes.yaxis, log_ticks(min(values), max(values)))
    else:
        linear_axis(axes.yaxis)
        _limit(axes, metric, values)
    if best is not None:
        axes.axvline(best.step, color=SOFT, linewidth=1, linestyle=":")
        if best.place[0] == metric and best.place[1] in series:
            look = {"linestyle": "", "marker": "*", "color": INK, "markersize": 13}
            handles += axes.plot([best.step], [best.value], label=_BEST, zorder=5, clip_on=False, **look)
    add_legend(axes, handles if legend_labels(metric, series, best) else [], width)


def legend_labels(metric: str, series: Series, best: Best | None) -> list[str]:
    """The entries of a panel's legend; none if it has a single series and no mark."""
    labels = list(series_names(list(series)).values())
    labels += [_BEST] if best is not None and best.place[0] == metric and best.place[1] in series else []
    return labels if len(labels) > 1 else []


def _limit(axes: Axes, metric: str, values: Sequence[float]) -> None:
    """Shares are shown from 0 to 1, and speeds from 0."""
    if is_fraction(metric) and all(0 <= value <= 1 for value in values):
        share_axis(axes)
    elif metric.endswith("per_second"):
        axes.set_ylim(bottom=0)


def series_names(names: Sequence[str]) -> dict[str, str]:
    """`train` and `val` for `train/lm` and `val/lm` if each split has one loader, otherwise the whole names."""
    splits = [name.split("/")[0] for name in names]
    return {name: name if splits.count(split) > 1 else split for name, split in zip(names, splits, strict=True)}


def series_colors(names: Sequence[str]) -> dict[str, str]:
    """The first series of training and of validation have the same colors in every panel."""
    ordered = sorted(names, key=lambda name: (not name.startswith("train"), name))
    firsts = [
        next((name for name in ordered if name.startswith("train") == is_train), "") for is_train in (True, False)
    ]
    others = [name for name in ordered if name not in firsts]
    return {name: SERIES[index % len(SERIES)] for index, name in enumerate([*firsts, *others]) if name}


def _caption(constant: Mapping[str, float], best: Best | None) -> str:
    sentences = []
    if best is not None:
        sentences.append(f"★ and dotted line: best checkpoint, step {best.step:,}, {best.name} {plain(best.value)}.")
    if constant:
        values = ", ".join(f"{name} {plain(value)}" for name, value in sorted(constant.items()))
        sentences.append(f"Constant, not drawn: {values}.")
    return " ".join(sentences)

"""The look of pictures drawn with matplotlib: readable on a phone, plain numbers on axes, legends outside of the data.

matplotlib takes a second to import, so it is imported in functions.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xlm.utils.palette import EDGE, INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

# Inches and points: on a screen of 390 pixels, a point is 0.75 pixels.
WIDTH, TITLE, TEXT = 7.2, 14, 12
DPI = 150
# Points: the widths of panels that share a row, and of one that has it alone.
NARROW, WIDE = 195.0, 440.0
_CAPTION_CHARACTERS = 84
# Points from an axis to below its tick labels and its title.
_BELOW_TITLE_OF_X = 3.4 * TEXT
_Across = Literal["left", "center", "right"]
_Along = Literal["bottom", "center", "top"]
# The share of a text's width, or height, that is left of, or below, its place.
_BEFORE = {"left": 0.0, "center": 0.5, "right": 1.0, "bottom": 0.0, "top": 1.0}
# Where a label may be, in the order of preference: points to the right and up, and the side of the text at that place.
_SIDES: tuple[tuple[float, float, _Across, _Along], ...] = (
    (6, -5, "left", "top"), (-6, 5, "right", "bottom"), (6, 5, "left", "bottom"), (-6, -5, "right", "top"),
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
)  # fmt: skip
_OFFSETS = [(dx * far, dy * far, across, along) for far in (1.0, 1.8, 3.0) for dx, dy, across, along in _SIDES]


def new_figure(title: str, height: float) -> Figure:
    """An empty figure of the common width with a title; `height` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.shorten(title, 60, placeholder=" …"), fontsize=TITLE + 1, fontweight="bold", color=INK)
    return figure


def style_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Titles of a panel and its axes, a quiet grid and no frame."""
    axes.set_title(title, loc="left", fontsize=TITLE, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=TEXT, color=INK)
    axes.set_ylabel(y, fontsize=TEXT, color=INK)
    axes.tick_params(labelsize=TEXT, colors=INK)
    axes.grid(color=EDGE, alpha=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def fits_beside(title: str, labels: Sequence[str], width: float) -> bool:
    """Whether a legend fits beside a panel's title, by rough widths of letters; `width` of the panel in points."""
    letters = 0.72 * TITLE * len(title) + 0.6 * TEXT * sum(len(label) + 4 for label in labels)
    return letters < width


def add_legend(axes: Axes, handles: Sequence[Any], width: float) -> None:
    """A legend outside of the data: beside the title if it fits, otherwise below the axes.

    Args:
        axes: a panel with its title.
        handles: the entries; none, no legend.
        width: the width of the panel in points.
    """
    from matplotlib.transforms import ScaledTranslation

    if not handles:
        return
    look: dict[str, Any] = {"handles": handles, "fontsize": TEXT - 1, "frameon": False, "borderaxespad": 0.2}
    look |= {"handlelength": 1.4, "columnspacing": 1.0, "handletextpad": 0.5}
    if fits_beside(axes.get_title(loc="left"), [str(handle.get_label()) for handle in handles], width):
        axes.legend(**look, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles))
        return
    below = ScaledTranslation(0, -_BELOW_TITLE_OF_X / 72, axes.figure.dpi_scale_trans)
    axes.legend(**look, loc="upper left", bbox_to_anchor=(0.0, 0.0), bbox_transform=axes.transAxes + below, ncols=2)


def add_caption(figure: Figure, text: str) -> None:
    """Lines of small text below all panels."""
    if text:
        lines = "\n".join(textwrap.wrap(text, _CAPTION_CHARACTERS))
        figure.supxlabel(lines, x=0.01, ha="left", fontsize=TEXT - 1, color=SOFT)


def label_points(axes: Axes, points: Sequence[tuple[float, float, float]], labels: Sequence[str]) -> list[Annotation]:
    """Write a label at each point, where it overlaps no other label, point, error bar or line; left out without room.

    The figure must be laid out (`draw_without_rendering`), and keep its layout. Earlier points choose first.

    Args:
        axes: the panel.
        points: x, y and the error of y.
        labels: of the points.
    """
    import numpy as np
    from matplotlib.transforms import Bbox

    place = axes.transData.transform
    point = axes.figure.dpi / 72
    taken = []
    for x, y, error in points:
        (left, low), (_, high) = place((x, y - error)), place((x, y + error))
        middle = place((x, y))[1]
        low, high = min(low, middle - 4 * point), max(high, middle + 4 * point)
        taken.append(Bbox([[left - 4 * point, low], [left + 4 * point, high]]))
    lines = [
        line.get_path().transformed(line.get_transform()) for line in axes.get_lines() if line.get_linestyle() != "None"
    ]
    inside = axes.get_window_extent()
    found = []
    for (x, y, _), label in zip(points, labels, strict=True):
        text = axes.annotate(label, (x, y), (0, 0), textcoords="offset points", fontsize=TEXT - 1, color=INK)
        text.set_in_layout(False)
        size = text.get_window_extent()
        for dx, dy, across, along in _OFFSETS:
            left, low = place((x, y)) + point * np.array((dx, dy))
            left, low = left - _BEFORE[across] * size.width, low - _BEFORE[along] * size.height
            box = Bbox.from_bounds(left, low, size.width, size.height).padded(point)
            is_inside = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if not is_inside or any(box.overlaps(other) for other in taken):
                continue
            if not any(line.intersects_bbox(box, filled=False) for line in lines):
                text.set(position=(dx, dy), horizontalalignment=across, verticalalignment=along)
                taken.append(box)
                found.append(text)
                break
        else:
            text.remove()
    return found


def plain(value: float, _: object = None) -> str:
    """A number for a tick, as short as it can be: `0.25`, `3,000`, `20k`, `5e-6`."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size and size < 1e-4:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def linear_axis(axis: Any, is_count: bool = False) -> None:
    """Plain numbers at about five places; only whole ones for a count."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, integer=is_count, min_n_ticks=2, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(plain))


def share_axis(axes: Axes) -> None:
    """The y axis of shares, from 0 to 1 with some room for marks."""
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])


def log_axis(axis: Any, ticks: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers at these ticks, and no others."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain))


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … from the last one at or below `low` to the first one above; powers of ten for a long range."""
    steps = (1,) if high / low > 1e3 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**power for power in powers for step in steps]
    first = max((tick for tick in found if tick <= low * 1.001), default=found[0])
    last = min((tick for tick in found if tick >= high * 0.999), default=found[-1])
    return [tick for tick in found if first <= tick <= last]


def powers_of_two(low: float, high: float) -> list[float]:
    """1, 2, 4, 8, … around a range: at least two, and at most nine (then every second, or third, …)."""
    first, last = math.floor(math.log2(low) + 1e-9), math.ceil(math.log2(high) - 1e-9)
    last = max(last, first + 1)
    step = -(-(last - first + 1) // 9)
    return [2.0**power for power in range(first, last + step, step)]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Names of runs may have letters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, dpi=DPI)
    return path

"""Draws docs/images/star_families.png from the tables in docs/developers/experiments.md.

python tools/family_curves.py

The first table of each dataset has steps and CPU minutes of each family, the second one the share of validation graphs
solved by step. A step is taken to cost the same throughout a run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
SOURCE, PICTURE = ROOT / "docs/developers/experiments.md", ROOT / "docs/images/star_families.png"
HEADING = "Four families on star_easy and star_medium, equal CPU time"
FAMILIES = {
    "arlm": ("ARLM, left to right", "o"), "mlm": ("MLM, masked", "s"),
    "mdlm": ("MDLM, masked diffusion", "^"), "ilm": ("ILM, insertion", "D"),
}  # fmt: skip
# The arms of a star: a model that guesses at the fork is right once in so many graphs.
ARMS = 3


@dataclass(frozen=True)
class Curve:
    """The shares of graphs that a family solves, by CPU minutes."""

    data: str
    family: str
    minutes: list[float]
    shares: list[float]


def read_curves(text: str) -> list[Curve]:
    """The curves of the section `HEADING` of a Markdown text."""
    section = text.split(HEADING, 1)[1].split("\n## ", 1)[0]
    cost: dict[tuple[str, str], float] = {}
    curves = []
    for data, header, rows in _tables(section):
        for family, cells in rows.items():
            if "CPU min" in header:
                cost[data, family] = _number(cells[header.index("CPU min")]) / _number(cells[header.index("steps")])
            elif header[0].isdigit():
                points = {_number(at): _number(cell) for at, cell in zip(header, cells, strict=True) if cell}
                minutes = [step * cost[data, family] for step in points]
                curves.append(Curve(data, family, [0.0, *minutes], [0.0, *points.values()]))
    return curves


def _tables(text: str) -> Iterator[tuple[str, list[str], dict[str, list[str]]]]:
    """The first cell of the header, its other cells, and the cells of each row by the first one."""
    for found in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.strip().split("\n")]
        yield lines[0][0], lines[0][1:], {line[0]: line[1:] for line in lines[2:]}


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def draw(curves: list[Curve]) -> Figure:
    """A panel for each dataset, and one legend."""
    from xlm.utils.figures import TEXT, linear_axis, new_figure, share_axis, style_axes
    from xlm.utils.palette import SERIES, SOFT

    datasets = list(dict.fromkeys(curve.data for curve in curves))
    figure = new_figure("Star graphs solved, by training time", 4.6)
    panels = figure.subplots(1, len(datasets), sharex=True)
    for axes, data in zip(panels, datasets, strict=True):
        for curve in (curve for curve in curves if curve.data == data):
            label, marker = FAMILIES[curve.family]
            color = SERIES[list(FAMILIES).index(curve.family)]
            axes.plot(curve.minutes, curve.shares, f"{marker}-", color=color, label=label, markersize=5, linewidth=1.8)
        axes.axhline(1 / ARMS, color=SOFT, linestyle=":", linewidth=1.4, label="a guess at the fork")
        style_axes(axes, data, "CPU minutes", "share of validation graphs" if data == datasets[0] else "")
        linear_axis(axes.xaxis)
        linear_axis(axes.yaxis)
        axes.set_xlim(left=0)
        share_axis(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=TEXT)
    return figure


def main() -> int:
    """Draw the picture."""
    from xlm.utils.figures import save_figure

    save_figure(draw(read_curves(SOURCE.read_text(encoding="utf-8"))), PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

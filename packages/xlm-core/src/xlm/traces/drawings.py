"""Drawings that a task's view returns, so that boards need no script: rows and columns of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xlm.errors import DataError

Cells = Sequence[Sequence[str | None]]


def grid(
    cells: Cells,
    right: Cells | None = None,
    fills: Sequence[tuple[int, int]] | None = None,
    box: tuple[int, int] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """A board; the words of an answer are put into its cells one after the other.

    Args:
        cells: rows of labels that are given, None where a cell is open.
        right: the solution, as `cells`; a word is right if it is the cell's. None: nothing is judged but given cells.
        fills: (row, column) of each word of the answer; None: an answer names every cell, row by row.
        box: rows and columns of the boxes that thicker lines enclose.
        title: the heading; None shows the prompt.

    Raises:
        DataError: rows of different lengths, no cell at all, or a place that is none.
    """
    width = len(cells[0]) if cells else 0
    for name, rows in (("cells", cells), ("right", right)):
        if rows is not None and (not width or len(rows) != len(cells) or any(len(row) != width for row in rows)):
            raise DataError(f"The {name} of a grid are {[len(row) for row in rows]} long, and all rows are as long.")
    if fills is not None and not all(0 <= r < len(cells) and 0 <= c < width for r, c in fills):
        raise DataError(f"The grid has {len(cells)} × {width} cells, and fills names others: {list(fills)}.")
    if box is not None and min(box) < 1:
        raise DataError(f"The boxes of a grid are {box[0]} × {box[1]} cells, and have at least one.")
    drawing: dict[str, Any] = {"kind": "grid", "cells": [list(row) for row in cells]}
    drawing |= {} if right is None else {"right": [list(row) for row in right]}
    drawing |= {} if fills is None else {"fills": [list(place) for place in fills]}
    drawing |= {} if box is None else {"box": list(box)}
    return drawing | ({} if title is None else {"title": title})

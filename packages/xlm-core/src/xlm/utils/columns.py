"""Tables of plain text that fit a terminal: figures are never cut; long texts wrap, or each row becomes a block."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len

from xlm.errors import as_line

_GAP = "  "
_INDENT = "  "
# A column of texts may be made as narrow as this.
_NARROWEST = 12
_MOST_LINES = 4
# Where texts break, the best places first.
_BREAKS = (re.compile(r"(?<=[\s,])"), re.compile(r"(?<=[+/])"), re.compile(r"(?<=[.=_\-])"))


@dataclass(frozen=True)
class Column:
    """A column with its title; `is_figure` for numbers, which are right-aligned and never broken."""

    title: str
    is_figure: bool = False


def output_width(stream: TextIO | None = None) -> int | None:
    """The columns of a terminal, or `COLUMNS` if it is set; None for a file or a pipe, where any length fits."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("COLUMNS", "").isdigit() or stream.isatty():
        return shutil.get_terminal_size().columns or None
    return None


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """A header and the rows, at most `width` columns wide; None: one line each, however long.

    If the rows don't fit, their texts wrap. If that is not enough, each row is a block: its first cell, and below it
    the others with their titles.
    """
    natural = [max(cell_len(text) for text in (column.title, *cells)) for column, *cells in _across(columns, rows)]
    widths = natural if width is None else _fitted(columns, rows, natural, width)
    if widths is None:
        assert width is not None
        return [line for row in rows for line in _block(columns, row, width)]
    titles = [column.title for column in columns]
    return [line for row in (titles, *rows) for line in _row_lines(columns, row, widths)]


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text that has few blanks, broken after commas and slashes first; later lines are indented."""
    lines: list[str] = []
    rest = text
    while True:
        indent = _INDENT if lines and width > 2 * len(_INDENT) else ""
        room = width - len(indent)
        if cell_len(rest) <= room:
            return [*lines, indent + rest]
        at = _break(rest, room)
        lines.append((indent + rest[:at]).rstrip())
        rest = rest[at:].lstrip()


def _across(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[tuple[Column, *tuple[str, ...]]]:
    return [(column, *(row[i] for row in rows)) for i, column in enumerate(columns)]


def _fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], natural: Sequence[int], width: int
) -> list[int] | None:
    """Widths that together fit; None if figures would be cut or texts would be too narrow."""
    widths = list(natural)
    room = width - len(_GAP) * (len(columns) - 1)
    if sum(widths) <= room:
        return widths
    least = [
        max([*map(cell_len, cells), min(_NARROWEST, cell_len(column.title))])
        if column.is_figure
        else min(natural[i], max(_NARROWEST, natural[i] // _MOST_LINES))
        for i, (column, *cells) in enumerate(_across(columns, rows))
    ]
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        if widths[widest] <= least[widest]:
            return None
        widths[widest] -= 1
    return widths


def _row_lines(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [
        wrapped(text, width) if cell_len(text) > width else [text] for text, width in zip(row, widths, strict=True)
    ]
    lines = []
    for i in range(max(map(len, cells), default=0)):
        parts = []
        for column, lines_of, width in zip(columns, cells, widths, strict=True):
            text = lines_of[i] if i < len(lines_of) else ""
            padding = " " * (width - cell_len(text))
            parts.append(padding + text.strip() if column.is_figure else text + padding)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _block(columns: Sequence[Column], row: Sequence[str], width: int) -> list[str]:
    items = [
        f"{column.title} {text}".strip()
        for column, text in zip(columns[1:], row[1:], strict=True)
        if text not in ("", "-")
    ]
    below = [f"{item}," for item in items[:-1]] + items[-1:]
    return [*wrapped(row[0], width), *(lines_of_parts(below, width, first=_INDENT) if below else [])]


def lines_of_parts(parts: Sequence[str], width: int | None, gap: str = " ", first: str = "") -> list[str]:
    """Parts side by side that are never broken, on as many lines as they need; later lines are indented.

    Args:
        gap: between two parts on one line.
        first: the indentation of the first line.
    """
    lines = [first]
    for i, part in enumerate(parts):
        joint = gap if i and lines[-1].strip() else ""
        if joint and width is not None and cell_len(lines[-1] + joint + part) > width:
            lines.append(_INDENT)
            joint = ""
        lines[-1] += joint + part
    return lines


def sentence_lines(text: str, width: int | None, indent: str = "") -> list[str]:
    """A text as lines that break only at blanks, so that paths stay in one piece; later lines start with `indent`."""
    if width is None or cell_len(text) <= width:
        return [text]
    lines = []
    for line in text.split("\n"):
        if cell_len(line) <= width:
            lines.append(line)
            continue
        start = line[: len(line) - len(line.lstrip(" "))]
        lines += textwrap.wrap(
            line.lstrip(" "), max(width, 20), initial_indent=start, subsequent_indent=indent or start,
            break_long_words=False, break_on_hyphens=False,
        ) or [""]  # fmt: skip
    return lines


def print_sentence(text: str) -> None:
    """Print one line of text, with unprintable characters as escapes; in a terminal, as many lines as it needs."""
    print("\n".join(sentence_lines(as_line(text), output_width())), flush=True)


def _break(text: str, room: int) -> int:
    """Where to break a text that is too long: after its last comma or slash, another mark, or anywhere."""
    end = len(text)
    while cell_len(text[:end]) > room:
        end -= 1
    end = max(end, 1)
    for marks in _BREAKS:
        places = [found.start() for found in marks.finditer(text) if 0 < found.start() <= end]
        if places and places[-1] > room // 3:
            return places[-1]
    return end

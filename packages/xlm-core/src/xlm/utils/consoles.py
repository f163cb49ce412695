"""Consoles that print names and texts as they are: without markup, and with control characters as escapes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.control import Control
from rich.measure import Measurement
from rich.segment import Segment

from xlm.errors import printable
from xlm.utils.columns import Column, sentence_lines, table_lines


class _Printable:
    """What is to be printed, with the control characters of its texts as escapes."""

    def __init__(self, shown: ConsoleRenderable) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown, options):
            is_text = not segment.control
            yield Segment(printable(segment.text), segment.style) if is_text else segment

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.shown)


class PrintsPlainly(RenderHook):
    """Shows the control characters of everything that a console prints as escapes."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [one if isinstance(one, Control) else _Printable(one) for one in renderables]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled: `xlm.cli.main` ends the command."""
        raise

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print as rich does. Where it would not wrap, a terminal gets lines that break at blanks, not within paths."""
        wraps_softly = self.soft_wrap if soft_wrap is None else soft_wrap
        if wraps_softly and len(objects) == 1 and isinstance(objects[0], str) and (width := width_of(self)):
            objects = ("\n".join(sentence_lines(objects[0], width)),)
        super().print(*objects, soft_wrap=soft_wrap, **options)


def plain_console(**options: Any) -> Console:
    """A console that prints text unchanged: `[x]` in a path or a message is not markup, `:x:` not an emoji.

    Control characters in names, configurations and generated texts are shown as escapes. A notebook gets plain text,
    whose lines stay together: as rich HTML, each would be an output of its own.
    """
    if is_notebook():
        options = {"force_jupyter": False, "force_terminal": False, **options}
    console = _Console(markup=False, emoji=False, **options)
    console.push_render_hook(PrintsPlainly())
    return console


def width_of(console: Console) -> int | None:
    """The columns of a terminal or a notebook; None for a file or a pipe, where any length fits."""
    has_width = console.is_terminal or console.is_jupyter or os.environ.get("COLUMNS", "").isdigit()
    return console.width if has_width else None


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in the width of the terminal; in a file or a pipe, a line for each row, however long."""
    for line in table_lines(columns, rows, width_of(console)):
        console.print(line, highlight=False, soft_wrap=True)


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return Console().is_jupyter

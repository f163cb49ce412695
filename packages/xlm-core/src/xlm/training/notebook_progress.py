"""The progress bar of a notebook: HTML that replaces itself, which needs no widgets and stays in the saved notebook."""

from __future__ import annotations

import importlib
import time
from html import escape
from typing import Any

SECONDS_BETWEEN = 0.25


class NotebookBar:
    """Step, bar, times and newest values of a run, in one output that is updated in place.

    Args:
        total: steps of the run; None if it has no limit in steps.
        completed: steps that an earlier call has trained.
    """

    #: Columns that the values may take; a page has no limit.
    width: int | None = None

    def __init__(self, total: int | None, completed: int = 0) -> None:
        # By name: outside of notebooks IPython isn't installed, and it is no dependency.
        self._display: Any = importlib.import_module("IPython.display")
        self._total = total
        self._first = self._completed = completed
        self._values = ""
        self._started = self._shown = time.monotonic()
        self._output = self._display.display(self._content(), raw=True, display_id=True)

    def update(self, completed: int, values: str) -> None:
        """Show another step and its values, at most a few times a second."""
        self._completed, self._values = completed, values
        if time.monotonic() - self._shown >= SECONDS_BETWEEN:
            self._show()

    def stop(self) -> None:
        """Show the last step."""
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._output.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        """The same as HTML and as text, for whatever shows notebooks."""
        seconds = time.monotonic() - self._started
        steps = self._completed - self._first
        of = "" if self._total is None else f"/{self._total:,}"
        times = clock(seconds)
        if self._total is not None and steps > 0 and self._completed < self._total:
            times += f" < {clock(seconds / steps * (self._total - self._completed))}"
        text = " · ".join([f"step {self._completed:,}{of}", times, *([self._values] if self._values else [])])
        bar = "" if self._total is None else f'<progress value="{self._completed}" max="{self._total}"></progress> '
        return {
            "text/plain": text,
            "text/html": f'<div style="font-variant-numeric:tabular-nums">{bar}{escape(text)}</div>',
        }


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

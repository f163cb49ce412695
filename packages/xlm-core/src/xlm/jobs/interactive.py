"""A prompt in the terminal: what is typed is continued, answered or filled, until an empty line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console

from xlm.errors import XLMError
from xlm.jobs.prompts import standard_input
from xlm.jobs.writer import Sample
from xlm.utils.rich_utils import plain_console
from xlm.utils.text_files import read_lines

_PROMPT = "[bold cyan]prompt>[/bold cyan] "


def converse(write: Callable[[str, int], Sequence[Sample]], console: Console, title: str) -> int:
    """Read prompts and print what `write(prompt, number of the prompt)` gives; returns how many were answered.

    Ctrl-C, Ctrl-D and an empty line end it. A mistake is told, and the next prompt read. With input from a pipe each
    line is a prompt, and nothing but texts is printed.
    """
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        _edit_lines()
        console.print(f"{title}. A blank is ___ (or ___[3] for three tokens). An empty line ends it.", soft_wrap=True)
    count = 0
    try:
        for prompt in _prompts(console, at_terminal):
            started = time.perf_counter()
            try:
                samples = write(prompt, count)
            except XLMError as error:
                plain_console(stderr=True).print(f"Error: {error}", markup=False, highlight=False, soft_wrap=True)
                continue
            count += 1
            for sample in samples:
                console.print(sample.text, markup=False, highlight=False, soft_wrap=True)
            if at_terminal:
                console.print(_cost(samples, time.perf_counter() - started), style="dim", highlight=False)
    except KeyboardInterrupt:
        pass
    if at_terminal:
        console.print()
    return count


def _prompts(console: Console, at_terminal: bool) -> Iterator[str]:
    for line in _typed(console) if at_terminal else (line.text for line in read_lines(standard_input(), "the input")):
        if not line.strip():
            return
        yield line


def _typed(console: Console) -> Iterator[str]:
    while True:
        try:
            yield console.input(_PROMPT)
        except EOFError:
            return


def _edit_lines() -> None:
    """Arrow keys and history, where Python has them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def _cost(samples: Sequence[Sample], seconds: float) -> str:
    counts = [sample.network_calls for sample in samples if sample.network_calls is not None]
    calls = f"{sum(counts) / len(counts):g} network calls a text, " if counts else ""
    return f"{calls}{seconds:.2f} s"

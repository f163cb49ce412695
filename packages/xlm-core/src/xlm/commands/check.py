"""`xlm check NAME`: prints a line for each property of a model, what to do if it fails, and a count."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from xlm.errors import ConfigError
from xlm.external_models import discover, find_model
from xlm.schemas import Check
from xlm.testing.runner import Outcome, check_model, find_property
from xlm.utils.columns import sentence_lines
from xlm.utils.consoles import PrintsPlainly, width_of

_MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "inapplicable": ("–", "dim")}
_INDENT = " " * 4


@dataclass(frozen=True)
class Request:
    """A model, the properties to check (empty: all), the experiment (None: chosen by the kit) and its overrides."""

    name: str
    properties: tuple[str, ...] = ()
    experiment: str | None = None
    overrides: tuple[str, ...] = ()


def read_request(words: Sequence[str], options: Check) -> Request:
    """The request of a command line; ConfigError unless it names exactly one model."""
    names = [*([options.model_name] if options.model_name else []), *(word for word in words if "=" not in word)]
    if len(names) != 1:
        raise ConfigError("Which model? xlm check NAME, or job_type=check model_name=NAME. `xlm models` lists them.")
    return Request(names[0], options.property, options.experiment, tuple(word for word in words if "=" in word))


def run_check(words: Sequence[str], options: Check) -> int:
    """Check, print, and return 1 if a property fails, else 0.

    Raises:
        XLMError: the model or a property doesn't exist.
    """
    request = read_request(words, options)
    for name in request.properties:
        find_property(name)
    find_model(request.name, discover(os.environ, Path.cwd()))
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.push_render_hook(PrintsPlainly())
    counts: Counter[str] = Counter()
    outcomes = check_model(
        request.name, experiment=request.experiment, overrides=request.overrides, properties=request.properties
    )
    for outcome in _quietly(outcomes):
        counts[outcome.status] += 1
        print_outcome(outcome, console)
    checked = counts["passed"] + counts["failed"]
    words = f"{counts['passed']} of {checked} {'property' if checked == 1 else 'properties'} passed"
    skipped = f", {counts['inapplicable']} not applicable" if counts["inapplicable"] else ""
    console.print(f"{request.name}: {words}{skipped}.")
    return int(bool(counts["failed"]))


def _quietly(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes, with the model's own output suppressed."""
    while True:
        with redirect_stdout(StringIO()):
            outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print a property, and below it the reason and the remedy if it fails; in a terminal, wrapped to its width."""
    prop, width = outcome.prop, width_of(console)
    reason = f" ({outcome.reason})" if outcome.status == "inapplicable" else ""
    mark, style = _MARKS[outcome.status]
    start = f"{mark} {prop.name}"
    lines = sentence_lines(f"{start}  {prop.proves}{reason}", width, _INDENT)
    shown = Text("\n".join(lines))
    shown.stylize(style, 0, len(mark))
    shown.stylize("bold", len(mark), len(start))
    console.print(shown)
    if outcome.status == "failed":
        for line in (*outcome.reason.splitlines(), f"What to do: {prop.remedy}"):
            console.print(Text("\n".join(sentence_lines(f"{_INDENT}{line}", width))))

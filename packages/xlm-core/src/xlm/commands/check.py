"""`xlm check NAME`: prints a line for each property of a model, a remedy for each failure, and a count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from xlm.errors import ConfigError
from xlm.schemas import Check

if TYPE_CHECKING:
    from rich.console import Console

    from xlm.testing import Outcome

_MARKS = {"passed": "[green]✓[/green]", "failed": "[red]✗[/red]", "inapplicable": "[dim]–[/dim]"}
_WORDS = {"passed": "hold", "failed": "fail", "inapplicable": "don't apply"}


@dataclass(frozen=True)
class Request:
    """What to check: properties of a model (empty: all), with an experiment (None: a small one) and overrides."""

    name: str
    properties: tuple[str, ...] = ()
    experiment: str | None = None
    overrides: tuple[str, ...] = ()


def read_request(words: Sequence[str], options: Check) -> Request:
    """Read the request from a command line; ConfigError unless it names one model."""
    names = [*([options.model_name] if options.model_name else []), *(word for word in words if "=" not in word)]
    if len(names) != 1:
        raise ConfigError("Which model? xlm check NAME, or job_type=check model_name=NAME. `xlm models` lists them.")
    return Request(names[0], options.property, options.experiment, tuple(word for word in words if "=" in word))


def run_check(words: Sequence[str], options: Check) -> int:
    """Check a model, print the outcomes, and return 1 if a property fails.

    Raises:
        XLMError: there is no such model or property.
    """
    import os
    import sys
    from pathlib import Path

    from rich.console import Console

    from xlm.external_models import discover
    from xlm.testing.finding import find_model
    from xlm.testing.runner import check_model, find_property

    request = read_request(words, options)
    for name in request.properties:
        find_property(name)
    find_model(request.name, discover(os.environ, Path.cwd()))
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    counts: Counter[str] = Counter()
    outcomes = check_model(
        request.name, experiment=request.experiment, overrides=request.overrides, properties=request.properties
    )
    for outcome in _quietly(outcomes):
        counts[outcome.status] += 1
        print_outcome(outcome, console)
    parts = [f"{counts[status]} {word}" for status, word in _WORDS.items() if counts[status]]
    console.print(f"{request.name}: {', '.join(parts)}.")
    return int(bool(counts["failed"]))


def _quietly(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The same outcomes, without the output that the model prints."""
    while True:
        with redirect_stdout(StringIO()):
            outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the line of a property, and below it the reason and the remedy if it fails."""
    from rich.markup import escape

    prop = outcome.prop
    reason = f" ({escape(outcome.reason)})" if outcome.status == "inapplicable" else ""
    console.print(f"{_MARKS[outcome.status]} [bold]{prop.name}[/bold]  {prop.proves}{reason}")
    if outcome.status == "failed":
        for line in (*outcome.reason.splitlines(), f"What to do: {prop.remedy}"):
            console.print(f"    {escape(line)}")

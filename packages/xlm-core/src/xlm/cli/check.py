"""`xlm check NAME`: one line for each property of a model, what to do where one fails, and a count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from xlm.cli.words import is_job
from xlm.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from xlm.testing import Outcome

JOB = "check"
_MARKS = {"passed": "[green]✓[/green]", "failed": "[red]✗[/red]", "inapplicable": "[dim]–[/dim]"}
_WORDS = {"passed": "hold", "failed": "fail", "inapplicable": "don't apply"}


@dataclass(frozen=True)
class Request:
    """What to check: a model's properties (empty: all), by an experiment (None: the kit's choice) with overrides."""

    name: str
    properties: tuple[str, ...] = ()
    experiment: str | None = None
    overrides: tuple[str, ...] = ()


def is_check(args: Sequence[str]) -> bool:
    """Whether a command line asks for this job, which composes its configurations itself."""
    return is_job(JOB, args)


def read_request(args: Sequence[str]) -> Request:
    """The request of a command line; ConfigError for none or more than one model, or for a flag."""
    rest = list(args)
    rest.remove(JOB if JOB in rest else f"job_type={JOB}")
    if flags := [text for text in rest if text.startswith("-")]:
        raise ConfigError(f"xlm {JOB} takes no {flags[0]}: it composes several configurations.")
    given: dict[str, str] = {}
    names: list[str] = []
    overrides: list[str] = []
    for text in rest:
        key, equals, value = text.partition("=")
        if not equals or key == "model_name":
            names.append(value if equals else key)
        elif key in ("property", "experiment"):
            given[key] = value
        else:
            overrides.append(text)
    if len(names) != 1:
        raise ConfigError(f"Which model? xlm {JOB} NAME, or job_type={JOB} model_name=NAME. `xlm models` lists them.")
    properties = tuple(part.strip() for part in given.get("property", "").strip("[]").split(",") if part.strip())
    return Request(names[0], properties, given.get("experiment"), tuple(overrides))


def run_check(args: Sequence[str]) -> int:
    """Check, print, and return 1 if a property fails.

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

    request = read_request(args)
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
    """The same, without what the model itself prints meanwhile."""
    while True:
        with redirect_stdout(StringIO()):
            outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


def print_outcome(outcome: Outcome, console: Console) -> None:
    """The line of a property; below it the reason and the remedy if it fails."""
    from rich.markup import escape

    prop = outcome.prop
    reason = f" ({escape(outcome.reason)})" if outcome.status == "inapplicable" else ""
    console.print(f"{_MARKS[outcome.status]} [bold]{prop.name}[/bold]  {prop.proves}{reason}")
    if outcome.status == "failed":
        for line in (*outcome.reason.splitlines(), f"What to do: {prop.remedy}"):
            console.print(f"    {escape(line)}")

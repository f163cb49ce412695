"""`xlm models`: every model that was found, where, and what is wrong with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from xlm.errors import ConfigError
from xlm.external_models import Discovery, discover
from xlm.external_models.problems import hidden_configs
from xlm.jobs import custom_jobs

COLUMNS = ("name", "version", "source", "directory", "problems")


def print_models(args: Sequence[str] = ()) -> int:
    """Print the table, and what is wrong in full on stderr; 1 if something is broken, else 0."""
    if args:
        raise ConfigError(f"xlm models takes no arguments, but was given: {' '.join(args)}")
    found = discover(os.environ, Path.cwd())
    rows = table_rows(found)
    if not rows:
        print("No models were found. Searched: " + ", ".join(found.places))
    elif sys.stdout.isatty():
        _print_rich(rows)
    else:
        _print_plain(rows)
    sys.stdout.flush()
    broken = [left.error for left in found.unusable.values() if not left.tolerated]
    broken += [error for error in found.errors if error not in broken]
    for error in broken:
        print(f"Error: {error}", file=sys.stderr)
    told = [str(error) for error in broken]
    for warning in [*found.warnings, *custom_jobs(found.models)[1]]:
        if warning not in told:
            print(f"Warning: {warning}", file=sys.stderr)
    return 1 if broken else 0


def table_rows(found: Discovery) -> list[tuple[str, str, str, str, str]]:
    """One row of COLUMNS for each model that is usable or was at least listed."""
    hidden = hidden_configs(found.models)
    rows = []
    for model in found.models.values():
        problems = [f"{path} is hidden by {owner}" for path, owner in hidden.get(model.name, [])]
        rows.append((model.name, model.version, model.source, str(model.root), "; ".join(problems) or "none"))
    for left in found.unusable.values():
        rows.append((left.name, "-", left.source, left.directory, str(left.error).splitlines()[0]))
    return sorted(rows)


def _print_rich(rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # names are text, not rich's markup
    Console().print(table)


def _print_plain(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    for row in [COLUMNS, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

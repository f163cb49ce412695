"""`xlm models`: lists all models that were found, with their folders and problems."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xlm.commands import custom_jobs
from xlm.errors import ConfigError, ExternalModelConflictError, ExternalModelError, ModelLayoutError, as_line, printable
from xlm.external_models import Discovery, discover
from xlm.external_models.discovery import CHOICE_VARIABLE, hidden_configs
from xlm.schemas import Models

COLUMNS = ("name", "version", "source")


@dataclass(frozen=True)
class Entry:
    """The printed facts of one model; several `directories` are a conflict."""

    name: str
    version: str
    source: str
    directories: Sequence[str]
    problems: Sequence[str] = ()
    usable: bool = True


def print_models(words: Sequence[str] = (), options: Models | None = None) -> int:
    """Print all models, and errors in full on stderr; returns 1 if there are errors, else 0."""
    if words:
        raise ConfigError(f"xlm models takes no arguments, but was given: {' '.join(words)}")
    found = discover(os.environ, Path.cwd())
    entries = list_entries(found)
    # Wrap lines only for a terminal, not in a file or a pipe.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(as_lines(entries, width)) if entries else f"No models were found. Searched: {_places(found)}")
    if found.switched_off:
        print(as_line(f"Switched off by {CHOICE_VARIABLE}: {', '.join(found.switched_off)}."))
    sys.stdout.flush()
    broken = [left.error for left in found.unusable.values() if not left.tolerated]
    broken += [error for error in found.errors if error not in broken]
    for error in broken:
        print(printable(f"{error.label}: {error}"), file=sys.stderr)
    told = [str(error) for error in broken]
    for warning in [*found.warnings, *custom_jobs(found.models)[1]]:
        if warning not in told:
            print(f"Warning: {as_line(warning)}", file=sys.stderr)
    return 1 if broken else 0


def list_entries(found: Discovery) -> list[Entry]:
    """An entry for each model that is usable or listed, sorted by name."""
    hidden = hidden_configs(found.models)
    entries = []
    for model in found.models.values():
        problems = [f"{path} is hidden by {owner}" for path, owner in hidden.get(model.name, [])]
        entries.append(Entry(model.name, model.version, model.source, [str(model.root)], problems))
    for left in found.unusable.values():
        directories = [left.directory]
        if isinstance(left.error, ExternalModelConflictError):
            directories = [f"{directory} (from {source})" for directory, source in left.error.claims]
        entries.append(Entry(left.name, "-", left.source, directories, [_problem(left.error)], usable=False))
    return sorted(entries, key=lambda entry: entry.name)


def as_lines(entries: Sequence[Entry], width: int | None = None) -> list[str]:
    """A line for each model, its directory and problems below it, and a count; problems are wrapped to `width`.

    Paths are not broken, so that they can be copied.
    """
    rows = [COLUMNS, *((as_line(entry.name), as_line(entry.version), entry.source) for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    header, *lines = [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]
    shown = [header]
    for line, entry in zip(lines, entries, strict=True):
        shown.append(line)
        shown += [f"  directory: {directory}" for directory in entry.directories]
        shown += [part for problem in entry.problems for part in _wrapped("  problem:   ", problem, width)]
    usable = sum(entry.usable for entry in entries)
    left = len(entries) - usable
    summary = f"{usable} {'model' if usable == 1 else 'models'} can be used"
    return [*map(as_line, shown), "", f"{summary}, {left} cannot." if left else f"{summary}."]


def _wrapped(label: str, text: str, width: int | None) -> list[str]:
    if width is None:
        return [label + text]
    indent = " " * len(label)
    return textwrap.wrap(
        text, width, initial_indent=label, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _problem(error: ExternalModelError) -> str:
    """The problem without the name and the directory, which are printed above it."""
    return error.reason if isinstance(error, ModelLayoutError) else str(error).splitlines()[0]


def _places(found: Discovery) -> str:
    return as_line(", ".join(found.places))

"""The table of results at the end of a job, on the screen and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from xlm.utils.files import replace_text


def print_results(
    title: str,
    metrics: Mapping[str, float],
    counts: Mapping[str, int],
    console: Console,
    results: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """One row per loader and metric, with how many examples it is over, and its standard error if `results` has it."""
    table = Table(title=title, title_justify="left")
    for column, justify in (
        ("split", "left"),
        ("loader", "left"),
        ("metric", "left"),
        ("value", "right"),
        *([] if results is None else [("± s.e.", "right")]),
        ("n", "right"),
    ):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for key, value in metrics.items():
        parts = key.split("/", 2)
        split, loader, metric = parts if len(parts) == 3 else ("", "", key)
        n = counts.get(f"{split}/{loader}")
        error = None if results is None else results.get(key, {}).get("se")
        errors = [] if results is None else ["" if error is None else f"{error:.4f}"]
        table.add_row(split, loader, metric, f"{value:.4f}", *errors, "" if n is None else f"{n:,}")
    console.print(table)


def write_results(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a record as JSON, replacing the file in one step."""
    return replace_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

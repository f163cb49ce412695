"""Reads files that a run may have left incomplete: returns what can be read, and describes what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xlm.utils.text_files import readable_rows


class Point(NamedTuple):
    """One logged value: optimizer step, name, value, seconds since the epoch."""

    step: int
    name: str
    value: float
    time: float


def number(value: Any) -> float | None:
    """A finite number as float; None for everything else, including booleans."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def read_mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    """The object in a JSON or YAML file; empty if it is missing or can't be read, which is added to `problems`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {_reason(error)}.")
        return {}
    try:
        found = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} is damaged: {_reason(error)}.")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{path.name} is damaged: it does not contain an object.")
        return {}
    return found


def read_points(path: Path) -> list[Point]:
    """The rows of a `metrics.csv` in order; incomplete rows and values that are not finite are skipped."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return [point for row in readable_rows(file) if (point := _point(row))]
    except OSError:
        return []


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; other lines are skipped."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row
    except OSError:
        return


def _point(row: list[str]) -> Point | None:
    if len(row) != len(Point._fields):
        return None
    try:
        step, name, value, time = int(row[0]), row[1], float(row[2]), float(row[3])
    except ValueError:
        return None
    return Point(step, name, value, time) if step >= 0 and math.isfinite(value) and math.isfinite(time) else None


def _yaml(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _reason(error: Exception) -> str:
    """The first line of an error, as the middle of a sentence."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text.rstrip(".")

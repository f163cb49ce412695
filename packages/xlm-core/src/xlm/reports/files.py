"""Reads files that a run may have left incomplete: returns what can be read, and describes what is wrong."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
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
        found = _json(text) if path.suffix == ".json" else _yaml(text)
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


def read_last(path: Path) -> dict[str, Point]:
    """The last complete row of each name in a `metrics.csv`, much faster than all rows."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            last = {row[1]: row for row in readable_rows(file) if len(row) > 1}
    except OSError:
        return {}
    last.pop("name", None)  # the header
    points = {name: _point(row) for name, row in last.items()}
    if None in points.values():  # the last row of a name is incomplete: an earlier one counts
        return {point.name: point for point in read_points(path)}
    return {name: point for name, point in points.items() if point}


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; other lines are skipped."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for line in file:
                try:
                    row = _json(line)
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


# A line that starts a top-level key; an anchor, an alias or a tag, with which a part may depend on others.
_TOP_LEVEL = re.compile(r"^(?=[^\s\-#\]}])", re.M)
_NOT_ALONE = re.compile(r"[&*!](?<=[\s\[{,].)[\w!]")


def _json(text: str) -> Any:
    """The value of a JSON text; half of a surrogate pair, which no file can hold, becomes a question mark."""
    found = json.loads(text)
    if "\\ud" in text.lower():
        found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    return found


def _yaml(text: str) -> Any:
    """The content of a YAML file, with a reader that remembers parts: configurations of a sweep differ in few lines."""
    if not _NOT_ALONE.search(text):
        starts = [found.start() for found in _TOP_LEVEL.finditer(text)]
        with suppress(ValueError):
            # What comes before the first key belongs to its part.
            parts = [_part(text[a:b]) for a, b in pairwise([0, *starts[1:], len(text)])]
            if all(isinstance(part, dict) and len(part) == 1 for part in parts):
                return {key: value for part in parts for key, value in part.items()}
    return _parsed(text)


@functools.lru_cache(maxsize=4096)
def _part(text: str) -> Any:
    return _parsed(text)


def _parsed(text: str) -> Any:
    import yaml

    from xlm.utils.stored_yaml import check_stored_yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    check_stored_yaml(text)
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _reason(error: Exception) -> str:
    """The first line of an error, as the middle of a sentence."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text.rstrip(".")

"""The settings in which runs differ: dotted keys, one value for each run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xlm.reports.run import Run

# Where a run is and what it is called is no setting.
_NOT_SETTINGS = ("job_name", "job_type", "paths", "hydra", "eval", "generation")
MISSING = "–"
# Deeper than any configuration; YAML can hold itself.
_MAX_DEPTH = 40


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Key → its value in each run, where that is not the same in all; runs without a configuration have no say.

    Values are as they were written: an interpolation stays one, since what it points to is compared too.
    """
    settings = [dict(leaves(run.config)) for run in runs]
    read = [found for found in settings if found]
    keys = sorted({key for found in read for key in found})
    return {
        key: [found.get(key, MISSING) for found in settings]
        for key in keys
        if len({found.get(key, MISSING) for found in read}) > 1
    }


def leaves(node: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Dotted key and text of every value below `node`; lists count as values."""
    if isinstance(node, Mapping) and depth < _MAX_DEPTH:
        for name, child in node.items():
            if key or name not in _NOT_SETTINGS:
                yield from leaves(child, f"{key}.{name}" if key else str(name), depth + 1)
    elif key:
        yield key, node if isinstance(node, str) else _as_text(node)


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return str(type(value).__name__)

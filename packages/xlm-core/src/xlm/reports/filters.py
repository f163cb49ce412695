"""Which runs a word of `xlm runs` chooses: a part of a row, a pattern, or a setting such as `optimizer.lr=0.003`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from xlm.errors import ConfigError, as_line, did_you_mean, nearest_names
from xlm.reports.files import number
from xlm.reports.run import Run

_SETTING = re.compile(r"[A-Za-z_][\w.]*")
# The columns of the table, by the names that people give them.
_OF_ROW = ("model_type", "task", "data", "state", "name")
_OPTIONS = ("sort", "json")


def matches(run: Run, word: str) -> bool:
    """Whether a word chooses a run.

    `key=value` compares a setting: a column of the table, a word of the command line, or a key of the configuration;
    the value may be a pattern. Any other word is a part of an entry in the run's row, or a pattern that matches one.
    Names of runs contain `=` too, so a setting is also looked for in the name.
    """
    key, equals, value = word.partition("=")
    if equals and _SETTING.fullmatch(key) and any(_same(text, value) for text in _values(run, key)):
        return True
    return any(
        word in text or fnmatchcase(text, word)
        for text in (run.name, str(run.folder), run.model, run.data, run.state())
    )


def check_filters(runs: Sequence[Run], words: Sequence[str]) -> None:
    """ConfigError for a `key=value` whose key is unknown to all runs: probably a misspelled option."""
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals or not _SETTING.fullmatch(key) or any(matches(run, word) or _values(run, key) for run in runs):
            continue
        hint = did_you_mean(nearest_names(key, [*_OPTIONS, *_OF_ROW, *_keys(runs)], 1))
        raise ConfigError(
            as_line(f"xlm runs has no option '{key}', and no run has a setting of that name. {hint or _advice()}"),
            key=key,
        )


def _advice() -> str:
    return f"Options: {', '.join(f'{name}=' for name in _OPTIONS)}. Settings: {', '.join(_OF_ROW)}, or any key."


def _values(run: Run, key: str) -> list[str]:
    """The values of a setting: from the row, from the newest command line, or from the configuration."""
    row = {"model_type": run.model, "task": run.data, "data": run.data, "state": run.state(), "name": run.name}
    words = (text.lstrip("+") for text in run.command if isinstance(text, str))
    given = [value for name, equals, value in (text.partition("=") for text in words) if equals and name == key]
    found: Any = run.config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    stored = [] if found is None or isinstance(found, Mapping) or given else [_text(found)]
    return [*([row[key]] if key in row else []), *given[-1:], *stored]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same(text: str, pattern: str) -> bool:
    """Whether a value is this text, the same number (`1e-3` is `0.001`), or matches a pattern."""
    return text == pattern or fnmatchcase(text, pattern) or (_as_number(text) == _as_number(pattern) is not None)


def _as_number(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None


def _keys(runs: Sequence[Run]) -> set[str]:
    """The keys of the runs' configurations, with their sections."""
    found: set[str] = set()
    nodes: list[tuple[str, Any]] = [("", run.config) for run in runs]
    while nodes:
        above, node = nodes.pop()
        for key, value in node.items() if isinstance(node, Mapping) else ():
            found.add(f"{above}{key}")
            nodes.append((f"{above}{key}.", value))
    return found

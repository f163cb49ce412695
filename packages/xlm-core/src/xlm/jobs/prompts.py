"""Prompts of `xlm generate`: from the command line, a file of lines or of JSON lines, or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlm.errors import ConfigError, DataError

STDIN = "-"
_JSON = (".jsonl", ".json")


@dataclass(frozen=True)
class Prompt:
    """A text, and what else its line says, which goes into the rows of its samples."""

    text: str
    extra: dict[str, Any] = field(default_factory=dict)


def read_prompts(prompts: Any, prompt_file: Any) -> list[Prompt] | None:
    """The prompts that `generation.prompts` and `generation.prompt_file` ask for; None where neither does.

    Raises:
        ConfigError: both are given, or a prompt is no text.
        DataError: the file is not there, has no prompt, or has a line that is none.
    """
    if prompts is not None and prompt_file is not None:
        raise ConfigError("generation.prompts and generation.prompt_file are both given; one of them is enough.")
    if prompt_file is not None:
        return _from_file(str(prompt_file))
    if prompts is None:
        return None
    if prompts == STDIN:
        return _from_file(STDIN)
    given = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, str) else [prompts]
    if not given:
        raise ConfigError("generation.prompts is an empty list; [''] is one prompt from nothing.")
    return [Prompt(_as_text(prompt)) for prompt in given]


def _as_text(prompt: Any) -> str:
    """A prompt of a configuration; a number, which YAML makes of the labels of a graph, is meant as text."""
    if isinstance(prompt, str | int | float) and not isinstance(prompt, bool):
        return str(prompt)
    raise ConfigError(
        f"generation.prompts: {json.dumps(prompt, default=str)} is no text; if it is meant as one, write it in quotes.",
        key="generation.prompts",
    )


def _from_file(name: str) -> list[Prompt]:
    path = Path(name)
    if name == STDIN:
        text, shown = sys.stdin.read(), "standard input"
    elif path.is_file():
        text, shown = _text_of(path), name
    else:
        raise DataError(f"There is no file of prompts at {name}.")
    as_json = path.suffix in _JSON or (name == STDIN and text.lstrip().startswith("{"))
    found = [
        _of_json(line, f"{shown}, line {number}") if as_json else Prompt(line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"There is no prompt in {shown}: a prompt is a line that isn't empty.")
    return found


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text.") from error


def _of_json(line: str, where: str) -> Prompt:
    """A JSON string, or an object with `prompt`."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f'{where} is not JSON; a line is "text" or {{"prompt": "text", …}}.') from error
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise DataError(f'{where} has no text under "prompt".')
    return Prompt(value.pop("prompt"), value)

"""Prompts of `xlm generate`: from the command line, a file of lines or of JSON lines, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from xlm.errors import ConfigError, DataError
from xlm.utils.text_files import Line, json_value, read_lines

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
        ConfigError: both are given.
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
    return [Prompt(str(prompt)) for prompt in given]


def _from_file(name: str) -> list[Prompt]:
    if name != STDIN and not Path(name).is_file():
        raise DataError(f"There is no file of prompts at {name}.")
    source, shown = (standard_input(), "standard input") if name == STDIN else (name, name)
    lines = [line for line in read_lines(source, shown) if line.text.strip()]
    if not lines:
        raise DataError(f"There is no prompt in {shown}: a prompt is a line that isn't empty.")
    if Path(name).suffix in _JSON or (name == STDIN and lines[0].text.lstrip().startswith("{")):
        return [_of_json(line) for line in lines]
    return [Prompt(line.text) for line in lines]


def standard_input() -> IO[bytes]:
    """What comes in, as bytes, whatever encoding Python expects there; a text that replaces it, as UTF-8."""
    buffer: IO[bytes] | None = getattr(sys.stdin, "buffer", None)
    return BytesIO(sys.stdin.read().encode()) if buffer is None else buffer


def _of_json(line: Line) -> Prompt:
    """A JSON string, or an object with `prompt`."""
    value = json_value(line.text, line.where, 'A line is "text" or {"prompt": "text", …}.')
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise DataError(f'{line.where} has no text under "prompt".')
    return Prompt(value.pop("prompt"), value)

"""Prompts from options, files, standard input or a pipe, and the words of a prompt that a tokenizer doesn't know."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from xlm.errors import ConfigError, DataError
from xlm.utils.columns import output_width, sentence_lines
from xlm.utils.rank_zero import RankedLogger
from xlm.utils.text_files import Line, json_value, read_lines

STDIN = "-"
_JSON = (".jsonl", ".json")
# A pipe without data for this long is ignored: many programs start others with a pipe that nobody writes to.
PIPE_SECONDS = 5.0
_MOST_WORDS = 10

log = RankedLogger(__name__, rank_zero_only=True)


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the other fields of its line, which are copied to the rows of its samples."""

    text: str
    extra: dict[str, Any] = field(default_factory=dict)


def read_prompts(prompts: Any, prompt_file: Any) -> list[Prompt] | None:
    """The prompts of `generation.prompts` or `generation.prompt_file`; None without either.

    Raises:
        ConfigError: both are given.
        DataError: the file doesn't exist, has no prompt, or has a line that is not a prompt.
    """
    if prompts is not None and prompt_file is not None:
        raise ConfigError("generation.prompts and generation.prompt_file are both given. Use only one of them.")
    if prompt_file is not None:
        return _from_file(str(prompt_file))
    if prompts is None:
        return None
    if prompts == STDIN:
        return _from_file(STDIN)
    given = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, str) else [prompts]
    if not given:
        raise ConfigError("generation.prompts is an empty list. For one unconditional sample give [''].")
    return [Prompt(str(prompt)) for prompt in given]


def piped_prompts() -> list[Prompt] | None:
    """The lines of standard input if it is a pipe or a redirected file; None if it is not, or has no text.

    Never waits for a pipe that nobody writes to: without data for `PIPE_SECONDS` it is ignored, with a message. A file
    that was read from before belongs to another program, such as the shell's `while read`, and is left alone.

    Raises:
        DataError: a line is not a prompt.
    """
    if not _has_piped_text():
        return None
    lines = [line for line in read_lines(standard_input(), "standard input") if line.text.strip()]
    return _of_lines(lines) if lines else None


def _has_piped_text() -> bool:
    try:
        number = sys.stdin.fileno()  # not there if standard input is closed, or replaced as in a notebook
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode):
            return os.lseek(number, 0, os.SEEK_CUR) == 0
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return False
        if select.select([number], [], [], PIPE_SECONDS)[0]:
            return True
    except (AttributeError, OSError, ValueError):
        return False
    warn(
        f"Standard input is a pipe, but had no data for {PIPE_SECONDS:g} seconds, so no prompts are read from it. "
        "To wait for them, give generation.prompts=-."
    )
    return False


def _from_file(name: str) -> list[Prompt]:
    if name != STDIN and not Path(name).is_file():
        raise DataError(f"There is no file of prompts at {name}.")
    source, shown = (standard_input(), "standard input") if name == STDIN else (name, name)
    lines = [line for line in read_lines(source, shown) if line.text.strip()]
    if not lines:
        raise DataError(f"There is no prompt in {shown}. Write one prompt per line.")
    if name == STDIN:
        return _of_lines(lines)
    return [_of_json(line) for line in lines] if Path(name).suffix in _JSON else [Prompt(line.text) for line in lines]


def standard_input() -> IO[bytes]:
    """Standard input as bytes, independent of its encoding; a text stream that replaces it, as UTF-8."""
    buffer: IO[bytes] | None = getattr(sys.stdin, "buffer", None)
    return BytesIO(sys.stdin.read().encode()) if buffer is None else buffer


def _of_lines(lines: Sequence[Line]) -> list[Prompt]:
    """The lines of standard input, as JSON if the first one begins with `{`."""
    is_json = lines[0].text.lstrip().startswith("{")
    return [_of_json(line) if is_json else Prompt(line.text) for line in lines]


def _of_json(line: Line) -> Prompt:
    """A JSON string, or an object with `prompt`."""
    value = json_value(line.text, line.where, 'A line is "text" or {"prompt": "text", …}.')
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise DataError(f'{line.where} has no text under "prompt".')
    return Prompt(value.pop("prompt"), value)


def warn(text: str) -> None:
    """Log a warning on the first rank, in a terminal in as many lines as it needs."""
    log.warning("\n".join(sentence_lines(text, None if sys.stderr is None else output_width(sys.stderr))))


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The parts of a text that the tokenizer replaces by its unknown token, in order and each once."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown not in tokenizer(text, add_special_tokens=False)["input_ids"]:
        return []
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        parts = [text[start:end].strip() for token, (start, end) in pairs if token == unknown]
    else:
        words = text.split()
        parts = [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]
    return [part for part in dict.fromkeys(parts) if part not in ("", tokenizer.unk_token)]


def warn_of_unknown_words(tokenizer: Any, texts: Iterable[str]) -> None:
    """Log one warning that names the words of all texts that the tokenizer doesn't know; nothing if there are none."""
    found = list(dict.fromkeys(word for text in texts for word in unknown_words(tokenizer, text)))
    if not found:
        return
    named = ", ".join(map(repr, found[:_MOST_WORDS]))
    more = f" and {len(found) - _MOST_WORDS} more" if len(found) > _MOST_WORDS else ""
    warn(
        f"Not in the model's vocabulary: {named}{more}. The model sees {tokenizer.unk_token} "
        f"{'in its place' if len(found) == 1 else 'in their place'}."
    )

"""Blanks in a text: `___` stands for any number of tokens, `___[3]` for three; as the masks that a model reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from xlm.errors import ConfigError

_BLANK = re.compile(r"_{3,}(?:\[(\d+)\])?")


@dataclass(frozen=True)
class Blank:
    """A place for tokens: so many, or any number of them (None)."""

    num_tokens: int | None = None

    def __str__(self) -> str:
        return "___" if self.num_tokens is None else f"___[{self.num_tokens}]"


def split_blanks(text: str) -> list[str | Blank]:
    """The text and the blanks of a text, in order; three underscores or more are a blank.

    Raises:
        ConfigError: a blank of no tokens.
    """
    parts: list[str | Blank] = []
    end = 0
    for match in _BLANK.finditer(text):
        parts += [text[end : match.start()]] if match.start() > end else []
        blank = Blank(None if match[1] is None else int(match[1]))
        if blank.num_tokens == 0:
            raise ConfigError(f"The blank {match[0]} in {shortened(text)!r} has no tokens; 1 is the least.")
        parts.append(blank)
        end = match.end()
    return parts + ([text[end:]] if end < len(text) else [])


def has_blanks(text: str) -> bool:
    """Whether a text has a blank."""
    return _BLANK.search(text) is not None


def text_before_its_only_blank(text: str) -> str | None:
    """What stands before a text's one blank if that is at the end and of any length, to be continued; else None."""
    parts = split_blanks(text.rstrip())
    if sum(isinstance(part, Blank) for part in parts) != 1 or parts[-1] != Blank():
        return None
    return "".join(part for part in parts if isinstance(part, str))


def with_masks(parts: Sequence[str | Blank], tokenizer: Any) -> str:
    """The text with masks in its blanks, one for each token; a blank of any length is one mask.

    How masks are spaced is what the tokenizer reads without a stray token: "[MASK][MASK]" where a blank would be one
    of its own, "[MASK] [MASK]" where words are told apart by blanks.

    Raises:
        ConfigError: the tokenizer doesn't see the masks.
    """
    if not any(isinstance(part, Blank) for part in parts):
        return "".join(map(str, parts))
    mask = str(tokenizer.mask_token)
    num_masks = sum(part.count(mask) if isinstance(part, str) else part.num_tokens or 1 for part in parts)
    readings: list[tuple[int, str]] = []
    for strips, between in product((False, True), ("", " ")):
        text = _rendered(parts, mask, between, strips)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(tokenizer.mask_token_id) == num_masks:
            readings.append((len(ids), text))
    if not readings:
        raise ConfigError(f"{type(tokenizer).__name__} doesn't read {mask} as its mask.")
    return min(readings, key=lambda reading: reading[0])[1]


def _rendered(parts: Sequence[str | Blank], mask: str, between: str, strips: bool) -> str:
    """Strips: without the blanks before a mask, which belong to the word that it stands for."""
    text = ""
    for part in parts:
        if isinstance(part, Blank):
            text = (text.rstrip() if strips else text) + between.join([mask] * (part.num_tokens or 1))
        else:
            text += part
    return text


def shortened(text: str, most: int = 60) -> str:
    """A text as an error quotes it."""
    return text if len(text) <= most else text[: most - 1] + "…"

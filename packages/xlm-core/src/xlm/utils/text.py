"""Small operations on text: decoded text, or command line syntax."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from xlm.errors import printable

_QUOTES = "'\""
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def remove_trailing_pads(text: str, tokenizer: Any, tokens_to_remove: Sequence[str] | None = None) -> str:
    """`text` without trailing pad tokens (or any of `tokens_to_remove`) and spaces; those inside are kept."""
    removed = (tokenizer.pad_token,) if tokens_to_remove is None else tuple(tokens_to_remove)
    removed = tuple(token for token in removed if token)
    text = text.rstrip()
    while removed and text.endswith(removed):
        token = max((t for t in removed if text.endswith(t)), key=len)
        text = text[: -len(token)].rstrip()
    return text


def duration(seconds: float) -> str:
    """A time such as `6 s`, `3 min 20 s` or `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Spreadsheets run a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: object) -> object:
    """A value for a cell of a CSV file: a text that a spreadsheet would run as a formula begins with `'`.

    Numbers stay numbers, also as texts; control characters become escapes.
    """
    if not isinstance(value, str):
        return value
    try:
        float(value)
    except ValueError:
        quoted = f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value
        return printable(quoted)
    return value


def split(text: str) -> list[str]:
    """The parts of a text between commas outside quotation marks; a quotation starts at the beginning of a part."""
    parts, quote, escaped = [""], "", False
    for c in text:
        if c == "," and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if c == quote and not escaped else quote
        elif c in _QUOTES and not parts[-1].strip():
            quote = c
        escaped = c == "\\" and not escaped
        parts[-1] += c
    return parts


def is_quoted(text: str) -> bool:
    """Whether a text is enclosed in quotation marks."""
    return _QUOTED.fullmatch(text) is not None

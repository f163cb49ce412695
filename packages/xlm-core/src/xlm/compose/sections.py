"""Sections of a configuration that are absent until something is said in them, and words that stand for a key there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from xlm.compose.as_typed import as_typed

OPTIONAL_SECTIONS = ("eval.", "extract.", "generation.", "hub.", "plan.", "post_training.", "sweep.")
_PLUSES = re.compile(rf"\+\+(?=(?:{'|'.join(map(re.escape, OPTIONAL_SECTIONS))}))")
SHORT_FORMS = {"interactive": "generation.interactive"}


def with_optional_sections(overrides: Sequence[str], multirun: bool = False) -> tuple[str, ...]:
    """`eval.split=val` as `++eval.split=val`: these sections are absent from a config that doesn't use them.

    Texts and paths are quoted, so that they stay as they were typed; with `multirun` a comma separates values.
    """
    return tuple(_with_pluses(as_typed(text, multirun)) for text in overrides)


def without_pluses(text: str) -> str:
    """A text about overrides without the `++` that nobody typed."""
    return _PLUSES.sub("", text)


def _with_pluses(text: str) -> str:
    key, equals, value = text.partition("=")
    if equals and key in SHORT_FORMS:
        text = f"{SHORT_FORMS[key]}={value}"
    return f"++{text}" if text.startswith(OPTIONAL_SECTIONS) else text

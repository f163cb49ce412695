"""Sections of a configuration that are absent until something is said in them, and words that stand for a key there."""

from __future__ import annotations

from collections.abc import Sequence

OPTIONAL_SECTIONS = ("eval.", "extract.", "generation.", "hub.", "plan.", "post_training.", "sweep.")
SHORT_FORMS = {"interactive": "generation.interactive"}


def with_optional_sections(overrides: Sequence[str]) -> tuple[str, ...]:
    """`eval.split=val` as `++eval.split=val`: these sections are absent from a config that doesn't use them."""
    return tuple(_with_pluses(text) for text in overrides)


def _with_pluses(text: str) -> str:
    key, equals, value = text.partition("=")
    if equals and key in SHORT_FORMS:
        text = f"{SHORT_FORMS[key]}={value}"
    return f"++{text}" if text.startswith(OPTIONAL_SECTIONS) else text

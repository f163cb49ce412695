"""Small operations on decoded text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def remove_trailing_pads(text: str, tokenizer: Any, tokens_to_remove: Sequence[str] | None = None) -> str:
    """`text` without the pad tokens (or any of `tokens_to_remove`) and blanks at its end; those inside stay."""
    removed = (tokenizer.pad_token,) if tokens_to_remove is None else tuple(tokens_to_remove)
    removed = tuple(token for token in removed if token)
    text = text.rstrip()
    while removed and text.endswith(removed):
        token = max((t for t in removed if text.endswith(t)), key=len)
        text = text[: -len(token)].rstrip()
    return text

"""Numbers larger than what exists are reported."""

from __future__ import annotations


def fewer_than_asked(option: str, asked: int | None, found: int, of: str) -> str:
    """A sentence for a number of which there are fewer: `of` names them; empty where there are enough."""
    if asked is None or found >= asked:
        return ""
    return f"{option} is {asked:,}, and there are only {found:,} {of}; all of them are used."

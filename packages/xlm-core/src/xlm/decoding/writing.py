"""The order in which a text was written: its pieces, and the step at which each appeared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

from xlm.protocols import Tokenizer

# Roles whose tokens are no part of a text. An unknown word is one.
_UNSEEN = ("pad", "mask", "bos", "eos", "cls", "sep")


class Writing(TypedDict):
    """JSON-able. `steps[i]` is when `pieces[i]` appeared, from 0; -1 where it was given.

    `gap` stands for a piece that isn't there yet: "" where tokens are inserted, a sign where places wait for theirs.
    """

    pieces: list[str]
    steps: list[int]
    gap: str


def writing(ids: Sequence[int], steps: Sequence[int], tokenizer: Tokenizer, gap: str) -> Writing:
    """The pieces of a row of token ids, special tokens left out; together they are its text."""
    unseen = {getattr(tokenizer, f"{role}_token_id", None) for role in _UNSEEN}
    kept = [(token, step) for token, step in zip(ids, steps, strict=True) if token not in unseen]
    return {"pieces": pieces([token for token, _ in kept], tokenizer), "steps": [step for _, step in kept], "gap": gap}


def pieces(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What each token adds to the text, the space before it included."""
    if not ids:
        return []
    # A token's text may depend on the one before: whether a space stands between them.
    alone = tokenizer.batch_decode([[token] for token in ids])
    pairs = tokenizer.batch_decode([list(pair) for pair in pairwise(ids)])
    rest = [
        both[len(before) :] if both.startswith(before) else both for before, both in zip(alone, pairs, strict=False)
    ]
    return [alone[0], *rest]


def snapshots(written: Writing, count: int = 5) -> list[list[tuple[str, bool]]]:
    """The text at up to `count` moments, the last being its end: pieces there so far, and whether each is new."""
    moments = sorted({step for step in written["steps"] if step >= 0})
    if not moments:
        return []
    count = min(count, len(moments))
    chosen = [moments[(len(moments) - 1) * (n + 1) // count] for n in range(count)]
    shown, previous = [], -1
    for moment in chosen:
        line: list[tuple[str, bool]] = []
        for piece, step in zip(written["pieces"], written["steps"], strict=True):
            if step <= moment:
                line.append((piece, step > previous))
            elif written["gap"]:
                line.append((_blank(piece, written["gap"]), False))
        shown.append(line)
        previous = moment
    return shown


def _blank(piece: str, gap: str) -> str:
    """A gap that takes the place of a piece, with its space."""
    return (" " if piece.startswith(" ") else "") + gap

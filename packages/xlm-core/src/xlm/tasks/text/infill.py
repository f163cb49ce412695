"""Turns a text into an infilling task: some runs of its words become masks."""

from __future__ import annotations

from hashlib import blake2b
from random import Random
from typing import Any

from xlm.errors import DataError

# The first character of a word's first token: in byte-level BPE, and in SentencePiece.
_WORD_STARTS = ("Ġ", "▁")
# The prefix of a token inside a word, in WordPiece.
_CONTINUES = "##"


def mask_words(
    example: dict[str, Any],
    tokenizer: Any,
    *,
    rate: float = 0.3,
    max_spans: int = 2,
    seed: int = 0,
    **_: Any,
) -> dict[str, list[int]]:
    """Adds `prompt_ids`: `input_ids` with a mask for each token of one to `max_spans` runs of whole words.

    About `rate` of the words are masked, at least one; runs don't touch. The choice is a pure function of (seed,
    input_ids), so that every model and every run fills the same gaps.

    Raises:
        DataError: the example has no `input_ids`, or `rate` is not between 0 and 1.
    """
    if "input_ids" not in example:
        raise DataError(f"Infilling masks words in input_ids, but an example has only: {', '.join(example)}.")
    if not 0 < rate <= 1 or max_spans < 1:
        raise DataError(f"rate must be above 0 and at most 1, max_spans at least 1; got {rate} and {max_spans}.")
    ids = list(example["input_ids"])
    if not ids:
        return {"prompt_ids": []}
    starts = _word_starts(tokenizer.convert_ids_to_tokens(ids))
    # Python's own generator, seeded by a text: its draws are the same in every version.
    digest = blake2b(",".join(map(str, [seed, *ids])).encode()).hexdigest()
    bounds = [*starts, len(ids)]
    for first, end in _spans(len(starts), rate, max_spans, Random(digest)):
        width = bounds[end] - bounds[first]
        ids[bounds[first] : bounds[end]] = [tokenizer.mask_token_id] * width
    return {"prompt_ids": ids}


def _word_starts(tokens: list[str]) -> list[int]:
    """Positions at which words begin; every token is a word if the tokenizer marks no words."""
    marked = any(token.startswith(_WORD_STARTS) for token in tokens)
    begins = [token.startswith(_WORD_STARTS) if marked else not token.startswith(_CONTINUES) for token in tokens]
    return [position for position, is_start in enumerate(begins) if is_start or position == 0]


def _spans(num_words: int, rate: float, max_spans: int, random: Random) -> list[tuple[int, int]]:
    """(first, end) of runs of words, in order, with at least one word between them."""
    num_masked = max(1, round(rate * num_words))
    num_kept = num_words - num_masked
    # k runs need k - 1 words between them.
    num_spans = 1 + int(random.random() * min(max_spans, num_masked, num_kept + 1))
    cuts = sorted(_distinct(num_masked - 1, num_spans - 1, random))
    edges = [0, *(cut + 1 for cut in cuts), num_masked]
    gaps = sorted(_distinct(num_kept + 1, num_spans, random))
    return [(gap + start, gap + end) for gap, start, end in zip(gaps, edges, edges[1:], strict=False)]


def _distinct(below: int, how_many: int, random: Random) -> list[int]:
    """`count` different numbers in [0, below), only from `random()`, whose sequence Python guarantees."""
    numbers = list(range(below))
    return [numbers.pop(int(random.random() * len(numbers))) for _ in range(how_many)]

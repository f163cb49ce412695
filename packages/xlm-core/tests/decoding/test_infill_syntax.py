"""Blanks in a text: found, and written as masks that the tokenizer reads without a stray token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.infill_syntax import (
    Blank,
    has_blanks,
    shortened,
    split_blanks,
    text_before_its_only_blank,
    with_masks,
)
from xlm.errors import ConfigError

NUMBERS = SimpleSpaceTokenizer.for_numbers(vocab_size=20)


class Characters:
    """Each character is a token, blanks included; so is the mask."""

    mask_token, mask_token_id = "[MASK]", 0

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [0 if c == "\0" else ord(c) for c in text.replace("[MASK]", "\0")]}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The cat ___ on", ["The cat ", Blank(), " on"]),
        ("_____", [Blank()]),
        ("a __ b _c_", ["a __ b _c_"]),
        ("___[3]x___[12]", [Blank(3), "x", Blank(12)]),
        ("___[b]", [Blank(), "[b]"]),
        ("", []),
    ],
)
def test_parts(text: str, parts: list[Any]) -> None:
    assert split_blanks(text) == parts
    assert has_blanks(text) == any(isinstance(part, Blank) for part in parts)


@given(st.lists(st.one_of(st.text("ab []3", min_size=1, max_size=4), st.builds(Blank, st.integers(1, 9))), max_size=6))
def test_nothing_of_a_text_is_lost(parts: list[Any]) -> None:
    text = "".join(map(str, parts))
    assert "".join(map(str, split_blanks(text))) == text
    assert sum(isinstance(part, Blank) for part in split_blanks(text)) == sum(isinstance(p, Blank) for p in parts)


def test_a_blank_of_no_tokens() -> None:
    with pytest.raises(ConfigError, match=r"The blank ___\[0\] in 'a ___\[0\]' has no tokens"):
        split_blanks("a ___[0]")


@pytest.mark.parametrize(
    ("text", "before"),
    [("a b ___", "a b "), ("___ ", ""), ("a ___ b", None), ("a ___[2]", None), ("___ a ___", None), ("a", None)],
)
def test_one_blank_at_the_end(text: str, before: str | None) -> None:
    assert text_before_its_only_blank(text) == before


@pytest.mark.parametrize(
    ("tokenizer", "text", "masked"),
    [
        (NUMBERS, "1 ___[2] 3", "1 [MASK] [MASK] 3"),
        (NUMBERS, "1 [MASK] ___ 3", "1 [MASK] [MASK] 3"),
        (NUMBERS, "1 2", "1 2"),
        # Where a blank is a token of its own, the one before a mask belongs to the word that is missing.
        (Characters(), "a ___[2] b", "a[MASK][MASK] b"),
        (Characters(), "___[3]", "[MASK][MASK][MASK]"),
    ],
)
def test_masks_for_blanks(tokenizer: Any, text: str, masked: str) -> None:
    assert with_masks(split_blanks(text), tokenizer) == masked


def test_a_tokenizer_that_reads_no_masks() -> None:
    with pytest.raises(ConfigError, match=r"SimpleSpaceTokenizer doesn't read \[MASK\] as its mask"):
        with_masks(split_blanks("a___b"), NUMBERS)


def test_a_quoted_text_stays_short() -> None:
    assert (shortened("a" * 60), len(shortened("a" * 61))) == ("a" * 60, 60)

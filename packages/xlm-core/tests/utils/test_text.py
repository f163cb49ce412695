"""Pads are removed at the end of a text only."""

from __future__ import annotations

from types import SimpleNamespace

from xlm.utils.text import remove_trailing_pads

TOKENIZER = SimpleNamespace(pad_token="[PAD]")


def test_pads_at_the_end_go() -> None:
    assert remove_trailing_pads("a [PAD] b [PAD] [PAD]", TOKENIZER) == "a [PAD] b"
    assert remove_trailing_pads("a b[PAD][PAD]", TOKENIZER) == "a b"
    assert remove_trailing_pads("[PAD]", TOKENIZER) == ""
    assert remove_trailing_pads("", TOKENIZER) == ""


def test_other_tokens_can_be_named() -> None:
    assert remove_trailing_pads("a [PAD] </s> </s>", TOKENIZER, ["</s>"]) == "a [PAD]"
    assert remove_trailing_pads("a </s> [PAD]", TOKENIZER, ["</s>", "[PAD]"]) == "a"
    assert remove_trailing_pads("a", SimpleNamespace(pad_token=None)) == "a"

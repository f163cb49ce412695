"""Pads are removed at the end of a text only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from xlm.utils.text import csv_cell, remove_trailing_pads

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


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=x", "'\t=x"),
        ("\r=x", "'\\r=x"),
        (" =x", "' =x"),
        ("-1.5", "-1.5"),
        ("1e-3", "1e-3"),
        (-2, -2),
        ("val/lm/accumulated_loss", "val/lm/accumulated_loss"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
    ],
)
def test_cells_that_a_spreadsheet_would_run(value: object, cell: object) -> None:
    assert csv_cell(value) == cell

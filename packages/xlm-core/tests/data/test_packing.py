"""Packing loses no token, and every block but the last is full."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.functional import pack_sequences, process_groups
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(50)
EOS = TOKENIZER.eos_token_id
documents = st.lists(st.lists(st.integers(7, 50), max_size=9), max_size=12)


@settings(deadline=None)
@given(documents, st.integers(1, 11))
def test_blocks_are_the_documents_joined_by_eos(docs: list[list[int]], block_size: int) -> None:
    blocks = pack_sequences({"input_ids": docs}, TOKENIZER, block_size)["input_ids"]
    assert [token for block in blocks for token in block] == [token for doc in docs for token in [*doc, EOS]]
    assert all(len(block) == block_size for block in blocks[:-1])
    assert all(blocks)


def test_a_short_last_block_can_be_left_out_unless_it_is_the_only_one() -> None:
    docs = {"input_ids": [[7, 8, 9], [10]]}
    assert pack_sequences(docs, TOKENIZER, 4, drop_last=True)["input_ids"] == [[7, 8, 9, EOS]]
    assert pack_sequences(docs, TOKENIZER, 40, drop_last=True)["input_ids"] == [[7, 8, 9, EOS, 10, EOS]]


def test_block_size_is_checked() -> None:
    with pytest.raises(DataError, match="block_size must be at least 1"):
        pack_sequences({"input_ids": [[1]]}, TOKENIZER, 0)


def test_groups_may_change_the_number_of_rows() -> None:
    def doubled(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"x": [value for value in columns["x"] for _ in range(2)]}

    rows = process_groups(({"x": i, "gone": 0} for i in range(5)), doubled, group_size=2)
    assert list(rows) == [{"x": i} for i in range(5) for _ in range(2)]
    assert list(process_groups([], doubled)) == []

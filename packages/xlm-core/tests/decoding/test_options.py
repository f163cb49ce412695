"""Options of all predictors: tokens that are never produced."""

from __future__ import annotations

import pytest

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.options import suppressed_ids
from xlm.errors import ConfigError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)


def test_suppressed_ids_are_the_special_ones_but_eos_and_those_named() -> None:
    assert suppressed_ids(TOKENIZER) == sorted(
        {getattr(TOKENIZER, f"{name}_token_id") for name in ("mask", "pad", "bos", "cls", "sep")}
    )
    assert TOKENIZER.convert_tokens_to_ids("3") in suppressed_ids(TOKENIZER, ["3"])
    with pytest.raises(ConfigError, match="names '99', which the tokenizer doesn't know"):
        suppressed_ids(TOKENIZER, ["99"])

"""The space tokenizer: ids as published, and text that survives the round trip."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlm.data.tokenizers import SimpleSpaceTokenizer, fingerprint
from xlm.protocols import Tokenizer

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=20)


def test_ids_are_the_published_ones() -> None:
    names = ("pad", "cls", "mask", "eos", "bos", "sep", "unk")
    assert [getattr(TOKENIZER, f"{name}_token_id") for name in names] == list(range(7))
    assert TOKENIZER.convert_tokens_to_ids([getattr(TOKENIZER, f"{name}_token") for name in names]) == list(range(7))
    assert TOKENIZER("0 1 19")["input_ids"] == [7, 8, 26]
    assert (TOKENIZER.vocab_size, TOKENIZER.full_vocab_size, len(TOKENIZER)) == (20, 27, 27)
    assert TOKENIZER.all_special_ids == list(range(7))
    assert isinstance(TOKENIZER, Tokenizer)


@given(st.lists(st.integers(0, 19)))
def test_round_trip(numbers: list[int]) -> None:
    text = " ".join(map(str, numbers))
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.convert_ids_to_tokens(ids) == TOKENIZER.tokenize(text)
    assert TOKENIZER.decode([4, *ids, 3, 0], skip_special_tokens=True) == text


def test_calls_of_every_kind() -> None:
    assert TOKENIZER("  3   cat ")["input_ids"] == [10, TOKENIZER.unk_token_id]
    assert TOKENIZER("3", add_special_tokens=True)["input_ids"] == [1, 10, 5]
    assert TOKENIZER(["0", "1 2"]) == {"input_ids": [[7], [8, 9]], "attention_mask": [[1], [1, 1]]}
    assert TOKENIZER.convert_tokens_to_ids("[MASK]") == 2
    assert TOKENIZER.convert_tokens_to_ids("nonsense") == TOKENIZER.unk_token_id
    assert TOKENIZER.convert_ids_to_tokens(8) == "1"


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_decodes_lists_arrays_and_tensors(kind: type) -> None:
    assert TOKENIZER.decode(kind([4, 7, 8])) == "[BOS] 0 1"
    assert TOKENIZER.batch_decode(kind([[7, 0], [8, 3]]), skip_special_tokens=True) == ["0", "1"]
    assert TOKENIZER.decode(kind([7])[0]) == "0"


def test_bad_vocabularies() -> None:
    for vocab in (["a", "a"], ["[PAD]"]):
        with pytest.raises(ValueError, match="repeated words"):
            SimpleSpaceTokenizer(vocab)
    for vocab in (["a b"], [""]):
        with pytest.raises(ValueError, match="free of spaces"):
            SimpleSpaceTokenizer(vocab)


def test_fingerprint_is_that_of_the_vocabulary() -> None:
    same = pickle.loads(pickle.dumps(SimpleSpaceTokenizer.for_numbers(20)))
    assert fingerprint(same) == fingerprint(TOKENIZER)
    assert fingerprint(SimpleSpaceTokenizer.for_numbers(21)) != fingerprint(TOKENIZER)
    assert repr(TOKENIZER) == "SimpleSpaceTokenizer(vocab_size=20, full_vocab_size=27)"

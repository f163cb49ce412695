"""Rows of masked models: layout, what may be masked, filling, truncation, and blocks or slots to fill."""

from __future__ import annotations

import pickle
from typing import Any, get_args

import pytest
import torch

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.collate import MasksAfterPrompt, MasksInPlace, answer_rows, masked_batch, noise_seeds
from xlm.decoding.text_length import TextLength
from xlm.errors import ConfigError, DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "eos", "bos", "mask"))
EXAMPLES = [{"prompt_ids": [7, 8, 9], "input_ids": [10, 11]}, {"prompt_ids": [12], "input_ids": []}]


def test_answers_follow_prompts_and_are_all_that_may_be_masked() -> None:
    rows = answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=None)
    assert rows.ids.tolist() == [[7, 8, 9, BOS, 10, 11, EOS], [PAD, PAD, 12, BOS, EOS, PAD, PAD]]
    assert rows.maskable.long().tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0]]
    assert torch.equal(rows.attention_mask, rows.ids != PAD)
    assert rows.num_tokens.tolist() == [3, 1]


def test_filling_is_learnt_but_not_counted() -> None:
    rows = answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=5, text_length="learnt")
    assert rows.ids[:, 3:].tolist() == [[BOS, 10, 11, EOS, EOS], [BOS, EOS, EOS, EOS, EOS]]
    assert rows.maskable[:, 3:].long().tolist() == [[0, 1, 1, 1, 1]] * 2
    assert rows.attention_mask[:, 3:].all()
    assert rows.num_tokens.tolist() == [3, 1]


def test_tokens_are_masked_at_their_rows_rate() -> None:
    rows = answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=None)
    seeds, time, rate = torch.tensor([1, 2]), torch.tensor([0.5, 0.7]), torch.tensor([1.0, 0.0])
    batch = masked_batch(rows, time, rate, seeds, MASK)
    assert batch["input_ids"].tolist() == [[7, 8, 9, BOS, MASK, MASK, MASK], rows.ids[1].tolist()]
    assert batch["target_ids"].tolist() == [[-100] * 4 + [10, 11, EOS], [-100] * 7]
    assert batch["target_index"].tolist() == [4, 5, 6]
    assert torch.equal(batch["t"], time)


def test_filling_needs_a_block() -> None:
    with pytest.raises(ConfigError, match="text_length=learnt needs block_size"):
        answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=None, text_length="learnt")


@pytest.mark.parametrize("text_length", get_args(TextLength))
@pytest.mark.parametrize(("truncate", "kept"), [("right", [BOS, 7, 8]), ("left", [8, 9, EOS])])
def test_what_a_long_row_loses(truncate: Any, kept: list[int], text_length: TextLength) -> None:
    rows = answer_rows(
        [{"input_ids": [7, 8, 9]}],
        TOKENIZER,
        with_prompt=False,
        block_size=3,
        answer_truncate=truncate,
        text_length=text_length,
    )
    assert rows.ids.tolist() == [kept]
    noised = [token != BOS or text_length == "lm1b_protocol" for token in kept]
    assert rows.maskable.tolist() == [noised]
    assert rows.num_tokens.tolist() == [sum(noised)]


def test_too_long_is_an_error_unless_a_truncation_is_chosen() -> None:
    long = [{"prompt_ids": [7, 8, 9], "input_ids": [7, 8, 9]}]
    with pytest.raises(DataError, match="answer of 5 tokens does not fit into 3"):
        answer_rows(long, TOKENIZER, with_prompt=True, block_size=3, text_length="learnt")
    with pytest.raises(DataError, match="answer of 5 tokens does not fit into 3"):
        answer_rows(long, TOKENIZER, with_prompt=True, block_size=3)
    with pytest.raises(DataError, match="prompt of 3 tokens does not fit into 2"):
        answer_rows(long, TOKENIZER, with_prompt=True, block_size=9, input_block_size=2)
    rows = answer_rows(
        long, TOKENIZER, with_prompt=True, block_size=5, input_block_size=2, prompt_truncate="left", pad_to="block"
    )
    assert rows.ids[0].tolist() == [8, 9, BOS, 7, 8, 9, EOS]


def test_an_empty_batch_has_no_rows() -> None:
    rows = answer_rows([], TOKENIZER, with_prompt=True, block_size=4)
    assert len(rows.ids) == len(rows.num_tokens) == 0


def test_prediction_shows_a_block_of_masks_and_keeps_the_truth_apart() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=4)([{**e, "noise_seed": 5} for e in EXAMPLES])
    assert batch["input_ids"].tolist() == [[7, 8, 9, BOS, MASK, MASK, MASK], [PAD, PAD, 12, BOS, MASK, MASK, MASK]]
    assert torch.equal(batch["attention_mask"], batch["input_ids"] != PAD)
    assert batch["output_start_idx"] == 4
    assert batch["target_ids"].tolist() == [[10, 11, EOS], [EOS, PAD, PAD]]
    assert batch["noise_seed"].tolist() == [5, 5]


def test_unconditional_rows_are_bos_and_masks_without_a_truth() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=3)([{"input_ids": []}, {"input_ids": []}])
    assert batch["input_ids"].tolist() == [[BOS, MASK, MASK]] * 2
    assert batch.keys() == {"input_ids", "attention_mask", "output_start_idx"}


@pytest.mark.parametrize("block_size", [None, 1])
def test_a_block_of_masks_needs_room(block_size: int | None) -> None:
    with pytest.raises(ConfigError, match="must hold BOS and at least one mask"):
        MasksAfterPrompt(TOKENIZER, block_size)(EXAMPLES)


def test_masks_in_place_are_slots_between_bos_and_eos() -> None:
    collate = MasksInPlace(TOKENIZER, block_size=8)
    batch = collate([{"prompt_ids": [7, MASK, 9], "input_ids": [7, 8, 9]}, {"prompt_ids": [MASK], "input_ids": [7]}])
    assert batch["input_ids"].tolist() == [[BOS, 7, MASK, 9, EOS], [BOS, MASK, EOS, PAD, PAD]]
    assert batch["target_ids"].tolist() == [[7, 8, 9, EOS], [7, EOS, PAD, PAD]]
    with pytest.raises(DataError, match="does not fit into 8"):
        collate([{"prompt_ids": [7] * 7}])
    assert MasksInPlace(TOKENIZER, 8, pad_to="block")([{"prompt_ids": []}])["input_ids"].shape == (1, 8)


def test_an_example_without_a_seed_is_named() -> None:
    with pytest.raises(DataError, match="Example 1 of a batch has no noise_seed"):
        noise_seeds([{"noise_seed": 2**63 - 1}, {}])


def test_collators_pickle() -> None:
    for collate in (MasksAfterPrompt(TOKENIZER, 4), MasksInPlace(TOKENIZER, 8)):
        copy = pickle.loads(pickle.dumps(collate))
        assert torch.equal(copy(EXAMPLES)["input_ids"], collate(EXAMPLES)["input_ids"])

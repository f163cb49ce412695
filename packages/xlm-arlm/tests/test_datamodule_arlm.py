"""Collators: layout, targets, ragged and empty input, truncation."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arlm.datamodule_arlm import ARLMCollator, ARLMSeq2SeqCollator, ARLMSeq2SeqPredCollator, print_batch_arlm
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.bos_token_id
ids = st.lists(st.integers(7, 15), max_size=6)
seq2seq = st.lists(st.fixed_dictionaries({"prompt_ids": ids, "input_ids": ids}), min_size=1, max_size=5)


def real(batch: Any, row: int) -> list[int]:
    return batch["input_ids"][row][batch["attention_mask"][row]].tolist()


@given(seq2seq)
@settings(deadline=None)
def test_seq2seq_rows_are_prompt_bos_answer_eos(examples: list[dict[str, list[int]]]) -> None:
    batch = ARLMSeq2SeqCollator(TOKENIZER)(examples)
    for row, example in enumerate(examples):
        assert real(batch, row) == [*example["prompt_ids"], BOS, *example["input_ids"], EOS]
        targets = batch["target_ids"][row]
        assert targets[targets != -100].tolist() == [*example["input_ids"], EOS]
    assert batch["target_ids"].shape == batch["input_ids"].shape


@given(seq2seq)
@settings(deadline=None)
def test_every_target_is_the_next_input(examples: list[dict[str, list[int]]]) -> None:
    for on_prompt in (False, True):
        batch = ARLMSeq2SeqCollator(TOKENIZER, loss_on_prompt=on_prompt)(examples)
        rows, columns = (batch["target_ids"] != -100).nonzero(as_tuple=True)
        assert torch.equal(batch["target_ids"][rows, columns], batch["input_ids"][rows, columns + 1])
        assert torch.equal(batch["target_index"], rows * batch["input_ids"].shape[1] + columns)
        assert batch["left_padded"] == (not batch["attention_mask"][:, 0].all())


def test_loss_on_prompt_makes_every_token_but_the_first_a_target() -> None:
    batch = ARLMSeq2SeqCollator(TOKENIZER, loss_on_prompt=True)([{"prompt_ids": [7, 8], "input_ids": [9]}])
    assert batch["target_ids"].tolist() == [[8, BOS, 9, EOS, -100]]


def test_lm_rows_begin_with_bos_and_end_with_eos() -> None:
    batch = ARLMCollator(TOKENIZER)([{"input_ids": [7, 8]}, {"input_ids": []}])
    assert batch["input_ids"].tolist() == [[BOS, 7, 8, EOS], [BOS, EOS, PAD, PAD]]
    assert batch["target_ids"].tolist() == [[7, 8, EOS, -100], [EOS, -100, -100, -100]]


@pytest.mark.parametrize(("truncate", "kept"), [("right", [BOS, 7, 8]), ("left", [8, 9, EOS])])
def test_lm_truncation(truncate: Any, kept: list[int]) -> None:
    batch = ARLMCollator(TOKENIZER, block_size=3, truncate=truncate)([{"input_ids": [7, 8, 9]}])
    assert batch["input_ids"].tolist() == [kept]


def test_a_prompt_longer_than_its_block_is_an_error_unless_a_truncation_is_chosen() -> None:
    example = [{"prompt_ids": [7, 8, 9], "input_ids": [10]}]
    with pytest.raises(DataError, match="prompt of 3 tokens does not fit into 2"):
        ARLMSeq2SeqCollator(TOKENIZER, input_block_size=2)(example)
    batch = ARLMSeq2SeqCollator(TOKENIZER, input_block_size=2, prompt_truncate="left")(example)
    assert real(batch, 0) == [8, 9, BOS, 10, EOS]


def test_an_answer_longer_than_its_block_loses_its_eos_when_cut_on_the_right() -> None:
    example = [{"prompt_ids": [7], "input_ids": [8, 9, 10]}]
    with pytest.raises(DataError, match="answer of 5 tokens does not fit into 3"):
        ARLMSeq2SeqCollator(TOKENIZER, block_size=3)(example)
    batch = ARLMSeq2SeqCollator(TOKENIZER, block_size=3, answer_truncate="right")(example)
    assert real(batch, 0) == [7, BOS, 8, 9]


def test_pad_to_block_gives_one_shape_whatever_the_batch() -> None:
    collate = ARLMSeq2SeqCollator(TOKENIZER, block_size=5, input_block_size=4, pad_to="block")
    shapes = {tuple(collate([{"prompt_ids": [7] * n, "input_ids": [8] * n}])["input_ids"].shape) for n in (0, 1, 3)}
    assert shapes == {(1, 9)}


def test_prediction_batches_keep_the_truth_apart() -> None:
    collate = ARLMSeq2SeqPredCollator(TOKENIZER)
    batch = collate([{"prompt_ids": [7, 8], "input_ids": [9]}, {"prompt_ids": [7], "input_ids": []}])
    assert batch["input_ids"].tolist() == [[7, 8, BOS], [PAD, 7, BOS]]
    assert batch["target_ids"].tolist() == [[9, EOS], [EOS, PAD]]
    unconditional = collate([{"input_ids": []}])
    assert unconditional["input_ids"].tolist() == [[BOS]]
    assert "target_ids" not in unconditional
    assert "noise_seed" not in unconditional
    assert collate([{"input_ids": [], "noise_seed": n} for n in (5, 3)])["noise_seed"].tolist() == [5, 3]


def test_collators_pickle() -> None:
    for collate in (ARLMCollator(TOKENIZER), ARLMSeq2SeqCollator(TOKENIZER), ARLMSeq2SeqPredCollator(TOKENIZER)):
        copy = pickle.loads(pickle.dumps(collate))
        example = [{"prompt_ids": [7], "input_ids": [8]}]
        assert torch.equal(copy(example)["input_ids"], collate(example)["input_ids"])


def test_batches_of_every_kind_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    example = [{"prompt_ids": [7, 8], "input_ids": [9]}]
    for collate in (ARLMCollator(TOKENIZER), ARLMSeq2SeqCollator(TOKENIZER), ARLMSeq2SeqPredCollator(TOKENIZER)):
        batch: Any = collate(example)
        print_batch_arlm(batch, "val", TOKENIZER, "lm")
        shown = capsys.readouterr().out
        assert f"input_ids {tuple(batch['input_ids'].shape)}" in shown
        assert TOKENIZER.decode(batch["input_ids"][0].tolist()) in shown

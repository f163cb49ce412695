"""What predictors hand back: answers cut at EOS, rows for a file, prompts as strings in any mixture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.collate import MaskedPredictionBatch, MasksAfterPrompt, MasksInPlace
from xlm.decoding.fill import Filled
from xlm.decoding.output import as_rows, continue_text, finished, generate, slots_of, suppressed_ids
from xlm.errors import ConfigError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "eos", "bos", "mask"))


def predicted(batch: MaskedPredictionBatch, ids: list[list[int]]) -> Any:
    slots = slots_of(batch, MASK)
    order = torch.where(slots.masked, 1, -1)
    return finished(batch, slots, Filled(torch.tensor(ids), order, torch.tensor([2] * len(ids))), TOKENIZER)


def test_answers_end_at_their_first_eos() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=4)([{"prompt_ids": [7], "input_ids": [8]}, {"prompt_ids": [9]}])
    preds = predicted(batch, [[7, BOS, 8, EOS, 10], [9, BOS, 10, 11, 12]])
    assert preds["ids"].tolist() == [[7, BOS, 8, EOS, PAD], [9, BOS, 10, 11, 12]]
    assert preds["attention_mask"].long().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert preds["order"].tolist() == [[-1, -1, 1, 1, -1], [-1, -1, 1, 1, 1]]
    assert preds["output_start_idx"] == 2
    assert preds["text"] == ["1 [EOS]", "3 4 5"]


def test_rows_show_prompt_prediction_truth_and_calls() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=4)([{"prompt_ids": [7], "input_ids": [8]}])
    rows = as_rows(batch, predicted(batch, [[7, BOS, 9, EOS, 10]]), TOKENIZER)
    written = {"pieces": ["2"], "steps": [1], "gap": "▁"}
    shown = {"prompt": "0", "prediction": "2", "truth": "1"}
    assert rows == [{**shown, "steps_taken": 2, "network_calls": 2, "writing": written}]


def test_rows_of_infilling_show_the_masks_of_the_prompt() -> None:
    examples = [{"prompt_ids": [7, MASK, 9], "input_ids": [7, 8, 9]}, {"prompt_ids": [MASK], "input_ids": [8]}]
    batch = MasksInPlace(TOKENIZER)(examples)
    preds = predicted(batch, [[BOS, 7, 10, 9, EOS], [BOS, 8, EOS, PAD, PAD]])
    rows = as_rows(batch, preds, TOKENIZER)
    assert [(r["prompt"], r["prediction"], r["truth"]) for r in rows] == [
        ("0 [MASK] 2", "0 3 2", "0 1 2"),
        ("[MASK]", "1", "1"),
    ]


def test_unconditional_rows_have_an_empty_prompt() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=3)([{"input_ids": []}])
    assert as_rows(batch, predicted(batch, [[BOS, 7, 8]]), TOKENIZER)[0]["prompt"] == ""


def test_suppressed_ids_are_the_special_ones_but_eos_and_those_named() -> None:
    assert suppressed_ids(TOKENIZER) == sorted({MASK, PAD, BOS, TOKENIZER.cls_token_id, TOKENIZER.sep_token_id})
    assert TOKENIZER.convert_tokens_to_ids("3") in suppressed_ids(TOKENIZER, ["3"])
    with pytest.raises(ConfigError, match="names '99', which the tokenizer doesn't know"):
        suppressed_ids(TOKENIZER, ["99"])


def test_generate_fills_masks_where_there_are_some_and_answers_otherwise() -> None:
    seeds = []

    def predict(batch: MaskedPredictionBatch) -> Any:
        seeds.append(batch["noise_seed"].tolist())
        ids = batch["input_ids"].masked_fill(batch["input_ids"] == MASK, 15)
        return {"ids": ids, "output_start_idx": batch["output_start_idx"]}

    prompts = ["0 1", "0 [MASK] 1", "2"]
    texts = generate(predict, TOKENIZER, prompts, block_size=3, seed=7, device=torch.device("cpu"))
    assert texts == ["8 8", "0 8 1", "8 8"]
    assert seeds == [[1], [0, 2]]
    torch.manual_seed(0)
    generate(predict, TOKENIZER, prompts[:1], block_size=3, seed=None, device=torch.device("cpu"))
    generate(predict, TOKENIZER, prompts[:1], block_size=3, seed=None, device=torch.device("cpu"))
    assert seeds[2] != seeds[3]
    assert generate(predict, TOKENIZER, [], block_size=3, seed=None, device=torch.device("cpu")) == []


def test_continued_texts_keep_their_beginning_and_fill_the_block() -> None:
    seen: list[Any] = []

    def predict(batch: MaskedPredictionBatch) -> Any:
        seen.append(batch)
        return {"ids": batch["input_ids"].masked_fill(batch["input_ids"] == MASK, 15)}

    cpu = torch.device("cpu")
    assert continue_text(predict, TOKENIZER, ["0 1", ""], block_size=4, seed=7, device=cpu) == ["8", "8 8 8"]
    assert seen[0]["input_ids"].tolist() == [[BOS, 7, 8, MASK], [BOS, MASK, MASK, MASK]]
    assert seen[0]["noise_seed"].tolist() == [0, 1]
    assert continue_text(predict, TOKENIZER, [], block_size=4, seed=7, device=cpu) == []
    with pytest.raises(ConfigError, match="A prompt of 3 tokens leaves no room in a block of 4, BOS included"):
        continue_text(predict, TOKENIZER, ["0 1 2"], block_size=4, seed=7, device=cpu)

"""Answers longer than a block: whole, in order, ended by EOS, each row on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import ConfigError
from xlm.masked.collate import MaskedPredictionBatch, MasksAfterPrompt, MasksInPlace
from xlm.masked.predictor import finished, slots_of
from xlm.masked.semi_autoregressive import extended
from xlm.masked.unmasking import Filled

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=40)
EOS, BOS, MASK, PAD = (getattr(TOKENIZER, f"{n}_token_id") for n in ("eos", "bos", "mask", "pad"))


class Counting:
    """A predictor that goes on counting from the last given number, and ends a row when it reaches its prompt."""

    def __init__(self) -> None:
        self.seen: list[list[list[int]]] = []
        self.may_end: list[bool] = []

    def __call__(self, batch: MaskedPredictionBatch, seeds: Tensor, may_end: bool) -> Any:
        ids = batch["input_ids"]
        self.seen.append(ids.tolist())
        self.may_end.append(may_end)
        slots = slots_of(batch, MASK)
        start = batch["output_start_idx"]
        last = (ids[:, start:] * (ids[:, start:] != MASK)).amax(1).clamp(min=9)
        number = last[:, None] + slots.masked.long().cumsum(1)
        if may_end:
            number = torch.where(number > ids[:, :1], EOS, number)
        order = torch.where(slots.masked, slots.masked.long().cumsum(1) - 1, -1)
        filled = Filled(torch.where(slots.masked, number, ids), order, slots.masked.sum(1))
        return finished(batch, slots, filled, TOKENIZER)


def run(prompts: list[int], max_length: int, context: int | None = None) -> tuple[Any, Counting]:
    batch = MasksAfterPrompt(TOKENIZER, block_size=5)([{"prompt_ids": [p]} for p in prompts])
    counting = Counting()
    return extended(counting, batch, torch.arange(len(prompts)), max_length, context, TOKENIZER), counting


def test_rows_go_on_until_the_last_block_which_alone_may_end_them() -> None:
    preds, counting = run([12, 40, 16], max_length=9)
    assert preds["ids"][:, 2:].tolist() == [
        [10, 11, 12, 13, 14, 15, 16, 17, EOS],
        [10, 11, 12, 13, 14, 15, 16, 17, 18],
        [10, 11, 12, 13, 14, 15, 16, 17, EOS],
    ]
    assert counting.may_end == [False, False, False, True]
    assert torch.equal(preds["attention_mask"], preds["ids"] != PAD)
    # Each block starts from half of the one before.
    assert counting.seen[1] == [[p, BOS, 12, 13, MASK, MASK] for p in (12, 40, 16)]
    assert preds["network_calls"].tolist() == [10, 10, 10]
    assert preds["order"][1, 2:].tolist() == list(range(9))


def test_context_says_how_much_of_a_block_the_next_one_sees() -> None:
    preds, counting = run([40], max_length=10, context=1)
    assert preds["ids"][0, 2:].tolist() == list(range(10, 20))
    assert len(counting.seen) == 3
    assert counting.seen[2] == [[40, BOS, 16, MASK, MASK, MASK]]


def test_a_short_answer_is_one_block_cut_off() -> None:
    preds, counting = run([40], max_length=3)
    assert preds["ids"][0].tolist() == [40, BOS, 10, 11, 12]
    assert len(counting.seen) == 1


def test_mistakes_are_said() -> None:
    with pytest.raises(ConfigError, match=r"predictor.context is 4, and must lie in 0 … 3"):
        run([40], 9, context=4)
    batch = MasksInPlace(TOKENIZER)([{"prompt_ids": [MASK, 9]}])
    with pytest.raises(ConfigError, match="not for masks within a text"):
        extended(Counting(), batch, torch.arange(1), 9, None, TOKENIZER)

"""Collators: layout, masks from each example's own seed, ragged and empty input, declared types."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm.datamodule_mlm import MasksAfterPrompt, MasksInPlace, MLMCollator, MLMSeq2SeqCollator, print_batch_mlm
from mlm.types_mlm import MLMBatch, MLMPredictionBatch
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.testing import mismatches

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "eos", "bos", "mask"))
ids = st.lists(st.integers(7, 15), max_size=6)
seeds = st.integers(0, 2**63 - 1)
example = st.fixed_dictionaries({"prompt_ids": ids, "input_ids": ids, "noise_seed": seeds})
examples = st.lists(example, min_size=1, max_size=5)


def clean(batch: Any) -> torch.Tensor:
    return torch.where(batch["target_ids"] != -100, batch["target_ids"], batch["input_ids"])


@given(examples)
@settings(deadline=None)
def test_declared_types_hold(rows: list[dict[str, Any]]) -> None:
    for collate in (MLMCollator(TOKENIZER, text_length="given"), MLMSeq2SeqCollator(TOKENIZER, 8)):
        assert mismatches(MLMBatch, collate(rows)) == []
    for predict in (MasksAfterPrompt(TOKENIZER, 8), MasksInPlace(TOKENIZER)):
        assert mismatches(MLMPredictionBatch, predict(rows)) == []


def test_collators_pickle() -> None:
    one = [{"prompt_ids": [7], "input_ids": [8], "noise_seed": 3}]
    for collate in (MLMCollator(TOKENIZER, text_length="given"), MLMSeq2SeqCollator(TOKENIZER, 8)):
        copy = pickle.loads(pickle.dumps(collate))
        assert torch.equal(copy(one)["input_ids"], collate(one)["input_ids"])  # type: ignore[operator]


def test_print_batch_shows_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    one = [{"prompt_ids": [7], "input_ids": [8], "noise_seed": 3}]
    print_batch_mlm(dict(MLMSeq2SeqCollator(TOKENIZER, 4, t_min=1.0)(one)), "train", TOKENIZER, "lm")
    print_batch_mlm(dict(MasksAfterPrompt(TOKENIZER, 4)(one)), "val", TOKENIZER, "prediction")
    out = capsys.readouterr().out
    assert "train/lm: input_ids (1, 5)" in out
    assert "target  1 [EOS] [EOS]" in out
    assert "0 [BOS] [MASK] [MASK] [MASK]" in out

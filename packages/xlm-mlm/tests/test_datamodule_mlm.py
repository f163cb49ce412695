"""Collators: layout, masks from each example's own seed, ragged and empty input, declared types."""

from __future__ import annotations

import pickle
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm.datamodule_mlm import MasksAfterPrompt, MasksInPlace, MLMCollator, MLMSeq2SeqCollator, print_batch_mlm
from mlm.types_mlm import MLMBatch, MLMPredictionBatch
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.decoding.bound import clean_ids, coded_ids
from xlm.decoding.text_length import TextLength
from xlm.errors import ConfigError, DataError
from xlm.testing import mismatches

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "eos", "bos", "mask"))
ids = st.lists(st.integers(7, 15), max_size=6)
seeds = st.integers(0, 2**63 - 1)
example = st.fixed_dictionaries({"prompt_ids": ids, "input_ids": ids, "noise_seed": seeds})
examples = st.lists(example, min_size=1, max_size=5)


def clean(batch: Any) -> torch.Tensor:
    return torch.where(batch["target_ids"] != -100, batch["target_ids"], batch["input_ids"])


@given(examples, st.sampled_from(get_args(TextLength)))
@settings(deadline=None)
def test_rows_are_prompt_bos_answer_eos_and_the_rest_of_the_block(
    rows: list[dict[str, Any]], text_length: TextLength
) -> None:
    batch = MLMSeq2SeqCollator(TOKENIZER, block_size=8, text_length=text_length)(rows)
    for row, one in enumerate(rows):
        real = clean_ids(batch, PAD)[row][batch["attention_mask"][row]].tolist()
        filler = {"learnt": [EOS], "lm1b_protocol": [PAD]}.get(text_length, [])
        filling = filler * (8 - len(one["input_ids"]) - 2)
        # The published protocol noises and counts BOS.
        num_counted = len(one["input_ids"]) + 1 + (text_length == "lm1b_protocol")
        assert real == [*one["prompt_ids"], BOS, *one["input_ids"], EOS, *filling]
        assert coded_ids(batch, PAD)[row].tolist().count(-100) == batch["input_ids"].shape[1] - num_counted
        assert batch["num_tokens"][row] == num_counted
        assert int(batch["maskable"][row].sum()) == num_counted + len(filling)


@given(examples)
@settings(deadline=None)
def test_masks_are_targets_are_maskable(rows: list[dict[str, Any]]) -> None:
    batch = MLMSeq2SeqCollator(TOKENIZER, block_size=8)(rows)
    masked = batch["input_ids"] == MASK
    assert torch.equal(masked, batch["target_ids"] != -100)
    assert not (masked & ~batch["maskable"]).any()
    assert torch.equal(batch["target_index"], masked.reshape(-1).nonzero().squeeze(-1))
    assert ((batch["t"] > 0) & (batch["t"] < 1)).all()


@given(examples)
@settings(deadline=None)
def test_an_examples_corruption_is_the_same_wherever_it_lands(rows: list[dict[str, Any]]) -> None:
    """Noise is a pure function of noise_seed: not of the batch, the row's place, the padding or global random state."""
    collate = MLMSeq2SeqCollator(TOKENIZER, block_size=8)
    together, reverse = collate(rows), collate(rows[::-1])
    wide = MLMSeq2SeqCollator(TOKENIZER, block_size=8, input_block_size=9, pad_to="block")(rows)
    for row, one in enumerate(rows):
        torch.manual_seed(row)
        alone = collate([one])
        for batch, place in ((together, row), (reverse, len(rows) - 1 - row), (wide, row)):
            assert torch.equal(batch["input_ids"][place][-8:], alone["input_ids"][0][-8:])
            assert batch["t"][place] == alone["t"][0]


def test_another_seed_is_another_corruption() -> None:
    collate = MLMCollator(TOKENIZER, block_size=30)
    batch = collate([{"input_ids": [7] * 28, "noise_seed": seed} for seed in range(50)])
    assert len(batch["t"].unique()) == 50
    assert len(batch["input_ids"].unique(dim=0)) > 40


def test_t_is_the_level_that_the_loader_gave_or_follows_from_the_seed() -> None:
    rows = [{"input_ids": [7, 8], "noise_seed": 1000 * n, "noise_level": n / 16} for n in range(16)]
    spread = MLMCollator(TOKENIZER, t_min=0.5, text_length="given")(rows)["t"]
    torch.testing.assert_close(spread, 0.5 + torch.arange(16) / 32)
    seeded = MLMCollator(TOKENIZER, low_variance=False, text_length="given")(rows)["t"]
    assert (
        torch.equal(
            seeded,
            MLMCollator(TOKENIZER, text_length="given")([rows[n] | {"noise_level": 0.1} for n in range(16)])["t"],
        )
        is False
    )
    assert not torch.equal(seeded, spread)
    for row in rows:
        del row["noise_level"]
    assert torch.equal(MLMCollator(TOKENIZER, text_length="given")(rows)["t"], seeded)


def test_lm_rows_begin_with_bos_and_end_with_eos() -> None:
    rows = [{"input_ids": [7, 8], "noise_seed": 1}, {"input_ids": [], "noise_seed": 2}]
    batch = MLMCollator(TOKENIZER, text_length="given")(rows)
    assert clean(batch).tolist() == [[BOS, 7, 8, EOS], [BOS, EOS, PAD, PAD]]
    assert batch["maskable"].long().tolist() == [[0, 1, 1, 1], [0, 1, 0, 0]]
    filled = MLMCollator(TOKENIZER, block_size=5)(rows)
    assert clean(filled).tolist() == [[BOS, 7, 8, EOS, EOS], [BOS, EOS, EOS, EOS, EOS]]


def test_the_older_name_of_text_length_goes_on_working() -> None:
    rows = [{"input_ids": [7, 8], "noise_seed": 1}]
    for older, now in ((True, "learnt"), (False, "given"), (None, "learnt")):
        assert MLMCollator(TOKENIZER, 5, loss_on_padding=older)(rows)["text_length"] == now
    with pytest.raises(ConfigError, match="loss_on_padding=false is the older name of text_length=given, and text_len"):
        MLMCollator(TOKENIZER, 5, text_length="learnt", loss_on_padding=False)(rows)


@pytest.mark.parametrize(("truncate", "kept"), [("right", [BOS, 7, 8]), ("left", [8, 9, EOS])])
def test_lm_truncation(truncate: Any, kept: list[int]) -> None:
    batch = MLMCollator(TOKENIZER, block_size=3, truncate=truncate)([{"input_ids": [7, 8, 9], "noise_seed": 1}])
    assert clean(batch).tolist() == [kept]


def test_what_does_not_fit_is_an_error_unless_a_truncation_is_chosen() -> None:
    long = [{"prompt_ids": [7, 8, 9], "input_ids": [8, 9, 10], "noise_seed": 1}]
    with pytest.raises(DataError, match="prompt of 3 tokens does not fit into 2"):
        MLMSeq2SeqCollator(TOKENIZER, block_size=8, input_block_size=2)(long)
    with pytest.raises(DataError, match="answer of 5 tokens does not fit into 3"):
        MLMSeq2SeqCollator(TOKENIZER, block_size=3)(long)
    cut = MLMSeq2SeqCollator(
        TOKENIZER, block_size=3, input_block_size=2, prompt_truncate="left", answer_truncate="right"
    )(long)
    assert clean(cut)[0].tolist() == [8, 9, BOS, 8, 9]
    assert cut["num_tokens"].tolist() == [2]


def test_missing_pieces_are_named() -> None:
    with pytest.raises(DataError, match="has no noise_seed"):
        MLMCollator(TOKENIZER, text_length="given")([{"input_ids": [7]}])
    with pytest.raises(ConfigError, match="text_length=learnt needs block_size"):
        MLMSeq2SeqCollator(TOKENIZER)([{"prompt_ids": [7], "input_ids": [7], "noise_seed": 1}])


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

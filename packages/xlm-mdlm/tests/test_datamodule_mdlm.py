"""Collators: layout, masks from each example's own seed, ragged and empty input, declared types."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm.datamodule_mdlm import MasksAfterPrompt, MasksInPlace, MDLMCollator, MDLMSeq2SeqCollator, print_batch_mdlm
from mdlm.types_mdlm import MDLMBatch, MDLMPredictionBatch
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import ConfigError
from xlm.noise import (
    CosineSchedule,
    DummyNoiseSchedule,
    GeometricSchedule,
    LogLinearSchedule,
    MaskingSchedule,
    PolynomialSchedule,
)
from xlm.testing import mismatches

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "eos", "bos", "mask"))
SCHEDULE = LogLinearSchedule()
ids = st.lists(st.integers(7, 15), max_size=6)
seeds = st.integers(0, 2**63 - 1)
example = st.fixed_dictionaries({"prompt_ids": ids, "input_ids": ids, "noise_seed": seeds})
examples = st.lists(example, min_size=1, max_size=5)


def clean(batch: Any) -> torch.Tensor:
    return torch.where(batch["target_ids"] != -100, batch["target_ids"], batch["input_ids"])


@given(examples)
@settings(deadline=None)
def test_an_examples_corruption_is_the_same_wherever_it_lands(rows: list[dict[str, Any]]) -> None:
    """Noise is a pure function of noise_seed: not of the batch, the row's place, the padding or global random state."""
    collate = MDLMSeq2SeqCollator(TOKENIZER, noise_schedule=SCHEDULE, block_size=8)
    together, reverse = collate(rows), collate(rows[::-1])
    wide = MDLMSeq2SeqCollator(TOKENIZER, noise_schedule=SCHEDULE, block_size=8, input_block_size=9, pad_to="block")(
        rows
    )
    for row, one in enumerate(rows):
        torch.manual_seed(row)
        alone = collate([one])
        for batch, place in ((together, row), (reverse, len(rows) - 1 - row), (wide, row)):
            assert torch.equal(batch["input_ids"][place][-8:], alone["input_ids"][0][-8:])
            assert batch["t"][place] == alone["t"][0]


@given(examples)
@settings(deadline=None)
def test_declared_types_hold(rows: list[dict[str, Any]]) -> None:
    for collate in (
        MDLMCollator(TOKENIZER, noise_schedule=SCHEDULE, text_length="given"),
        MDLMSeq2SeqCollator(TOKENIZER, 8, noise_schedule=SCHEDULE),
    ):
        assert mismatches(MDLMBatch, collate(rows)) == []
    for predict in (MasksAfterPrompt(TOKENIZER, 8), MasksInPlace(TOKENIZER)):
        assert mismatches(MDLMPredictionBatch, predict(rows)) == []


@pytest.mark.parametrize(
    "schedule",
    [LogLinearSchedule(), CosineSchedule(), PolynomialSchedule(), GeometricSchedule()],
    ids=lambda s: type(s).__name__,
)
def test_tokens_are_masked_with_one_minus_alpha(schedule: MaskingSchedule) -> None:
    """Over many rows, and rate · weight = −α′ as the NELBO needs it, both stretched to the whole of (0, 1)."""
    rows = [{"input_ids": [7] * 20, "noise_seed": seed} for seed in range(3000)]
    batch = MDLMCollator(TOKENIZER, noise_schedule=schedule, text_length="given")(rows)
    t = batch["t"].double()
    start, end = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    rate = (start - schedule.alpha(t)) / (start - end)
    share = (batch["input_ids"] == MASK)[:, 1:].double().mean(1)
    z = (share - rate) / (rate * (1 - rate) / 21).sqrt()
    assert abs(float(z.mean())) < 4.5 / 3000**0.5
    assert abs(float(z.var()) - 1) < 0.15
    slope = -schedule.alpha_prime(t) / (start - end)
    torch.testing.assert_close(batch["weight"].double() * rate, slope, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch["sigma"].double(), schedule.sigma(t), rtol=1e-4, atol=1e-5)


def test_a_schedule_without_alpha_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise_schedule is DummyNoiseSchedule"):
        MDLMCollator(TOKENIZER, 8, noise_schedule=DummyNoiseSchedule())([{"input_ids": [7], "noise_seed": 1}])


def test_collators_pickle() -> None:
    one = [{"prompt_ids": [7], "input_ids": [8], "noise_seed": 3}]
    for collate in (
        MDLMCollator(TOKENIZER, noise_schedule=SCHEDULE, text_length="given"),
        MDLMSeq2SeqCollator(TOKENIZER, 8, noise_schedule=SCHEDULE),
    ):
        copy = pickle.loads(pickle.dumps(collate))
        assert torch.equal(copy(one)["input_ids"], collate(one)["input_ids"])  # type: ignore[operator]


def test_print_batch_shows_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    one = [{"prompt_ids": [7], "input_ids": [8], "noise_seed": 3}]
    print_batch_mdlm(
        dict(MDLMSeq2SeqCollator(TOKENIZER, 4, noise_schedule=SCHEDULE, t_min=1.0)(one)), "train", TOKENIZER, "lm"
    )
    print_batch_mdlm(dict(MasksAfterPrompt(TOKENIZER, 4)(one)), "val", TOKENIZER, "prediction")
    out = capsys.readouterr().out
    assert "train/lm: input_ids (1, 5)" in out
    assert "target  1 [EOS] [EOS]" in out
    assert "0 [BOS] [MASK] [MASK] [MASK]" in out

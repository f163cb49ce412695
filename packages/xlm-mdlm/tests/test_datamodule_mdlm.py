"""Collators: masked as the schedule says, with what the loss reads of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm.datamodule_mdlm import MDLMCollator, MDLMSeq2SeqCollator
from mdlm.types_mdlm import MDLMBatch
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
MASK = TOKENIZER.mask_token_id
SCHEDULE = LogLinearSchedule()
ids = st.lists(st.integers(7, 15), max_size=6)
seeds = st.integers(0, 2**63 - 1)
example = st.fixed_dictionaries({"prompt_ids": ids, "input_ids": ids, "noise_seed": seeds})
examples = st.lists(example, min_size=1, max_size=5)


@given(examples)
@settings(deadline=None)
def test_declared_types_hold(rows: list[dict[str, Any]]) -> None:
    for collate in (
        MDLMCollator(TOKENIZER, noise_schedule=SCHEDULE, text_length="given"),
        MDLMSeq2SeqCollator(TOKENIZER, 8, noise_schedule=SCHEDULE),
    ):
        assert mismatches(MDLMBatch, collate(rows)) == []


@pytest.mark.parametrize(
    "schedule",
    [LogLinearSchedule(), CosineSchedule(), PolynomialSchedule(), GeometricSchedule()],
    ids=lambda s: type(s).__name__,
)
def test_tokens_are_masked_with_one_minus_alpha(schedule: MaskingSchedule) -> None:
    """Over many rows, and rate · weight = −α′ as the NELBO needs it, both rescaled to the whole of (0, 1)."""
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

"""What a family's collator says that it takes whole is what it takes whole, and one token more is cut or refused."""

from __future__ import annotations

from typing import Any

import pytest

from arlm.datamodule_arlm import ARLMCollator, ARLMSeq2SeqCollator, ARLMSeq2SeqPredCollator
from ilm.datamodule_ilm import ILMCollator, ILMInfillCollator, ILMSeq2SeqCollator, ILMSeq2SeqPredCollator
from mdlm.datamodule_mdlm import MDLMCollator, MDLMSeq2SeqCollator
from mlm.datamodule_mlm import MLMCollator, MLMSeq2SeqCollator
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import DataError
from xlm.masked.collate import MasksAfterPrompt, MasksInPlace
from xlm.noise import LogLinearSchedule

TOKENIZER = SimpleSpaceTokenizer.for_numbers(40)
COLLATORS = (
    ARLMCollator, ARLMSeq2SeqCollator, ARLMSeq2SeqPredCollator,
    ILMCollator, ILMSeq2SeqCollator, ILMSeq2SeqPredCollator, ILMInfillCollator,
    MDLMCollator, MDLMSeq2SeqCollator, MLMCollator, MLMSeq2SeqCollator, MasksAfterPrompt, MasksInPlace,
)  # fmt: skip


@pytest.mark.parametrize("collator_class", COLLATORS, ids=lambda cls: cls.__name__)
def test_limits_are_those_of_the_batches(collator_class: Any) -> None:
    collator = collator_class(
        tokenizer=TOKENIZER, block_size=12, input_block_size=9, noise_schedule=LogLinearSchedule()
    )

    def given(lengths: dict[str, int]) -> int:
        """How many of the tokens that go in are anywhere in the batch."""
        example = {name: list(range(7, 7 + n)) for name, n in lengths.items()}
        batch = collator([{**example, "noise_seed": 1, "time_quantile": 0.5}])
        fields = [batch[name] for name in ("input_ids", "target_ids", "clean_ids") if name in batch]
        return len({token for field in fields for token in field.flatten().tolist() if token >= 7})

    limits = collator.token_limits()
    assert limits
    for column, limit in limits.items():
        other = {"input_ids": "prompt_ids", "prompt_ids": "input_ids"}[column]
        lengths = {other: 1, column: limit.tokens}
        assert given(lengths) == limit.tokens, column
        more = {**lengths, column: limit.tokens + 1}
        if limit.truncate == "error":
            with pytest.raises(DataError, match="does not fit"):
                given(more)
        else:  # its end mark, if it has one, is what is lost first
            assert given({**lengths, column: limit.tokens + 2}) < limit.tokens + 2
    assert collator_class(tokenizer=TOKENIZER, noise_schedule=LogLinearSchedule()).token_limits() == {}

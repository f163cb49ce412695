"""All families that know a likelihood report it in the same unit, on the same tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from arlm.datamodule_arlm import ARLMSeq2SeqCollator
from arlm.loss_arlm import ARLMLoss
from arlm.model_arlm import RotaryARLM
from mdlm.datamodule_mdlm import MDLMSeq2SeqCollator
from mdlm.loss_mdlm import MDLMLoss
from mdlm.model_mdlm import DiTMDLM
from mlm.datamodule_mlm import MLMSeq2SeqCollator
from mlm.loss_mlm import MLMLoss
from mlm.model_mlm import RotaryMLM
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.evaluation.likelihood import Likelihood, LikelihoodEstimator, likelihood_terms, num_bytes
from xlm.noise import CosineSchedule

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
EXAMPLES = [
    {"prompt_ids": [7] * (n % 4), "input_ids": [8 + n % 3] * (1 + n % 5), "noise_seed": 17 * n + 1} for n in range(60)
]
SIZES: dict[str, Any] = {"d_model": 16, "num_layers": 2, "nhead": 2, "dropout": 0.0}


def measure(loss: Any, collate: Any, batch_size: int, num_samples: int = 8) -> Likelihood:
    estimator = LikelihoodEstimator()
    for start in range(0, len(EXAMPLES), batch_size):
        examples = EXAMPLES[start : start + batch_size]
        texts = TOKENIZER.batch_decode([example["input_ids"] for example in examples])
        estimator.update(likelihood_terms(loss, collate(examples), num_samples), num_bytes(texts))
    return estimator.compute()


@pytest.fixture(params=["arlm", "mlm", "mdlm"])
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A loss around a network that knows nothing, and its collator."""
    torch.manual_seed(0)
    model: Any
    if request.param == "arlm":
        model = RotaryARLM(len(TOKENIZER), **SIZES)
        family = ARLMLoss(model, TOKENIZER), ARLMSeq2SeqCollator(TOKENIZER, block_size=8)
    elif request.param == "mlm":
        model = RotaryMLM(len(TOKENIZER), **SIZES)
        family = MLMLoss(model, TOKENIZER), MLMSeq2SeqCollator(TOKENIZER, block_size=8, loss_on_padding=False)
    else:
        model, schedule = DiTMDLM(len(TOKENIZER), **SIZES), CosineSchedule()
        collator = MDLMSeq2SeqCollator(TOKENIZER, block_size=8, noise_schedule=schedule, loss_on_padding=False)
        family = MDLMLoss(model, TOKENIZER, schedule), collator
    torch.nn.init.zeros_(model.final_layer.linear.weight)
    model.double().eval()
    return family


def test_a_network_that_knows_nothing_scores_the_logarithm_of_its_choices(family: tuple[Any, Any]) -> None:
    """Answers and their EOS count, prompts don't; masked models never choose the mask."""
    result = measure(*family, batch_size=16)
    choices = len(TOKENIZER) - (0 if result.exact else 1)
    assert result.nll == pytest.approx(math.log(choices), rel=0.02)
    assert abs(result.nll - math.log(choices)) <= 4 * result.estimator_error + 1e-9
    tokens = sum(len(example["input_ids"]) + 1 for example in EXAMPLES)
    texts = TOKENIZER.batch_decode([example["input_ids"] for example in EXAMPLES])
    assert result.num_tokens == tokens
    assert result.bits_per_byte == pytest.approx(result.nll * tokens / math.log(2) / sum(map(len, texts)))


def test_batches_change_nothing(family: tuple[Any, Any]) -> None:
    torch.nn.init.normal_(family[0].model.final_layer.linear.weight)
    results = [measure(*family, batch_size=size) for size in (1, 7, 60)]
    for result in results[1:]:
        assert result.as_dict() == pytest.approx(results[0].as_dict(), rel=1e-6)

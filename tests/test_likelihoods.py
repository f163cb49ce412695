"""All families that know a likelihood report it in the same unit, on the same tokens."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
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
from xlm.commands import eval as evaluation
from xlm.commands import train
from xlm.compose import load_config
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.evaluation.likelihood import Likelihood, LikelihoodEstimator, likelihood_terms, num_bytes
from xlm.noise import CosineSchedule
from xlm.utils.instantiate import clear_components

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
        family = MLMLoss(model, TOKENIZER), MLMSeq2SeqCollator(TOKENIZER, block_size=8, text_length="given")
    else:
        model, schedule = DiTMDLM(len(TOKENIZER), **SIZES), CosineSchedule()
        collator = MDLMSeq2SeqCollator(TOKENIZER, block_size=8, noise_schedule=schedule, text_length="given")
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


@pytest.mark.slow
def test_four_seeds_agree_within_the_error_of_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MDLM on real text: the squared deviations from their mean, in errors of drawing, are χ² of three degrees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_CACHE_DIR", os.environ.get("XLM_CACHE_DIR", str(tmp_path / "cache")))
    choice = (
        "experiment=text_mdlm", "model=xtiny_mdlm", "job_name=t", "trainer_strategy=cpu", "loggers=debug",
        "block_size=48", "global_components.tokenizer.vocab_size=400",
        "datamodule.dataset_managers.test.lm.num_examples=150",
    )  # fmt: skip
    data = "datamodule.dataset_managers"
    train.run(load_config([
        *choice, "trainer.max_steps=60", "trainer.val_check_interval=60", "trainer.limit_val_batches=1",
        "per_device_batch_size=16", f"{data}.train.lm.num_examples=960", f"{data}.val.lm.num_examples=8",
        f"{data}.val.unconditional_prediction.num_examples=1", "test_after_training=false",
    ]))  # fmt: skip
    without = [
        f"~{data}.{part}" for part in ("train", "val", "test.infill_prediction", "test.unconditional_prediction")
    ]
    found: list[dict[str, Any]] = []
    for seed in (1, 2, 3, 4):
        evaluation.run(load_config([*choice, *without, f"seed={seed}"]))
        found.append(json.loads(Path("runs/t/eval_test.json").read_text())["likelihood"]["test/lm"])
    clear_components()
    values, errors = [f["nll_per_token"]["value"] for f in found], [f["estimator_se"] for f in found]
    assert max(values) < 0.97 * math.log(400), "the network has learnt something"
    mean = sum(values) / 4
    chi_squared = sum(((value - mean) / error) ** 2 for value, error in zip(values, errors, strict=True))
    assert 0.024 < chi_squared < 16.3, "between the quantiles of 0.1 % and 99.9 %"
    for record in found:
        assert record["n"] == 150
        assert record["estimator_se"] < record["nll_per_token"]["se"], "texts differ from each other, too"

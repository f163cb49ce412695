"""The masked model with elbo weighting and masked diffusion with a linear schedule are one and the same thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mdlm.datamodule_mdlm import MDLMSeq2SeqCollator
from mdlm.loss_mdlm import MDLMLoss
from mdlm.model_mdlm import DiTMDLM
from mdlm.predictor_mdlm import MDLMPredictor
from mlm.datamodule_mlm import MasksAfterPrompt, MLMSeq2SeqCollator
from mlm.loss_mlm import MLMLoss
from mlm.model_mlm import RotaryMLM
from mlm.predictor_mlm import MLMPredictor
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.noise import LogLinearSchedule

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
EXAMPLES = [{"prompt_ids": [7, 8, 9], "input_ids": [10, 11, 12, 13], "noise_seed": 31 * n + 2} for n in range(32)]


@pytest.fixture
def networks() -> tuple[RotaryMLM, DiTMDLM]:
    """The same weights in both."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 16, "num_layers": 2, "nhead": 2, "dropout": 0.0}
    mlm = RotaryMLM(len(TOKENIZER), **sizes).double().eval()
    mdlm = DiTMDLM(len(TOKENIZER), **sizes, time_conditioning=False).double().eval()
    mdlm.load_state_dict(mlm.state_dict())
    return mlm, mdlm


@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_same_seed_and_batch_give_the_same_loss(eps: float, networks: tuple[RotaryMLM, DiTMDLM]) -> None:
    mlm, mdlm = networks
    schedule = LogLinearSchedule(eps)
    masked = MLMSeq2SeqCollator(TOKENIZER, block_size=8)(EXAMPLES)
    diffused = MDLMSeq2SeqCollator(TOKENIZER, block_size=8, noise_schedule=schedule)(EXAMPLES)
    assert torch.equal(masked["input_ids"], diffused["input_ids"])
    ours, theirs = MLMLoss(mlm, TOKENIZER, "elbo")(masked), MDLMLoss(mdlm, TOKENIZER, schedule)(diffused)
    torch.testing.assert_close(ours["loss"], theirs["loss"], rtol=1e-5, atol=1e-6)
    assert ours["num_loss_terms"] == theirs["num_loss_terms"]
    ours["loss"].backward()
    theirs["loss"].backward()
    for name, parameter in mlm.named_parameters():
        torch.testing.assert_close(parameter.grad, mdlm.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_one_at_a_time_and_first_hitting_draw_the_same_samples(networks: tuple[RotaryMLM, DiTMDLM]) -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=8)(EXAMPLES)
    mlm, mdlm = networks
    ours = MLMPredictor(TOKENIZER, model=mlm).predict(batch)
    theirs = MDLMPredictor(TOKENIZER, LogLinearSchedule(), mdlm, sampler="first_hitting").predict(batch)
    assert torch.equal(ours["ids"], theirs["ids"])
    assert len(ours["ids"].unique(dim=0)) > 1

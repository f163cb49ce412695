"""A BERT-like network as MDLM: no time, its own logits, the diffusion's loss and samplers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from mdlm.datamodule_mdlm import MDLMSeq2SeqCollator
from mdlm.hf_mdlm import HFMaskedDiffusion
from mdlm.loss_mdlm import MDLMLoss
from mdlm.predictor_mdlm import MDLMPredictor
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.noise import LogLinearSchedule


@pytest.fixture
def words() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(33)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    network = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(tmp_path / "network")
    return str(tmp_path / "network")


def test_time_changes_nothing(folder: str) -> None:
    model = HFMaskedDiffusion(40, folder, check_vocabulary=False).eval()
    ids = torch.randint(5, 40, (2, 9))
    there = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(model(ids), there(ids).logits, atol=1e-5)
    assert torch.equal(model(ids, sigma=torch.tensor([0.1, 3.0])), model(ids))


def test_loss_and_samplers(folder: str, words: SimpleSpaceTokenizer) -> None:
    model = HFMaskedDiffusion(40, folder, check_vocabulary=False).eval()
    schedule = LogLinearSchedule()
    examples = [
        {"prompt_ids": [8, 9, 10], "input_ids": [11, 12], "noise_seed": 1},
        {"prompt_ids": [8], "input_ids": [13], "noise_seed": 2},
    ]
    batch = MDLMSeq2SeqCollator(words, block_size=5, noise_schedule=schedule)(examples)  # type: ignore[arg-type]
    loss = MDLMLoss(model, words, schedule)
    found = loss.loss_fn(batch)["loss"]
    found.backward()
    assert found > 0
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (loss.nll_bound(batch, num_samples=2) > 0).all()
    for sampler in ("first_hitting", "ancestral", "confidence"):
        predictor = MDLMPredictor(words, schedule, model, sampler=sampler, num_steps=4, block_size=6, seed=3)
        texts = predictor.generate(["1 2 3", "4"])
        assert texts == predictor.generate(["1 2 3", "4"])
        assert not any("[MASK]" in text for text in texts)

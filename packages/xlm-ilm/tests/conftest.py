"""A vocabulary and a small network for the tests of this package."""

from __future__ import annotations

import pytest
import torch

from ilm.loss_ilm import ILMLoss
from ilm.model_ilm import RotaryILM
from xlm.datamodule import SimpleSpaceTokenizer


@pytest.fixture
def tokenizer() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(vocab_size=9)


@pytest.fixture
def model(tokenizer: SimpleSpaceTokenizer) -> RotaryILM:
    torch.manual_seed(0)
    # Double precision and weights far from zero: differences between two paths are then visible, and are mistakes.
    network = RotaryILM(len(tokenizer), d_model=16, num_layers=2, nhead=2, dropout=0.0).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.fixture
def loss(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> ILMLoss:
    return ILMLoss(model, tokenizer)

"""A vocabulary and small networks for the tests of this package."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from mlm.model_mlm import RotaryMLM
from xlm.datamodule import SimpleSpaceTokenizer

WORDS, LENGTH = 3, 4


@pytest.fixture
def tokenizer() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(vocab_size=9)


@pytest.fixture
def model(tokenizer: SimpleSpaceTokenizer) -> RotaryMLM:
    torch.manual_seed(0)
    # Double precision and weights far from zero: differences between two paths are then visible, and are mistakes.
    network = RotaryMLM(len(tokenizer), d_model=16, num_layers=2, nhead=2, dropout=0.0).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


class TableModel(nn.Module):
    """A joint distribution over three words at four positions after BOS, as if a network had learnt it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.tokenizer = SimpleSpaceTokenizer.for_numbers(WORDS)
        self.output_layer = nn.Linear(len(self.tokenizer), len(self.tokenizer), bias=False).double()
        with torch.no_grad():
            self.output_layer.weight.copy_(torch.eye(len(self.tokenizer)))
        self.sequences = torch.tensor(list(itertools.product(range(WORDS), repeat=LENGTH)))
        self.joint = torch.randn(len(self.sequences), dtype=torch.float64).mul(1.5).softmax(0)
        states = torch.tensor(list(itertools.product(range(WORDS + 1), repeat=LENGTH)))
        agrees = ((states[:, None] == self.sequences) | (states[:, None] == WORDS)).all(-1)
        one_hot = nn.functional.one_hot(self.sequences, WORDS).double()
        marginal = torch.einsum("sx,xlv->slv", agrees * self.joint, one_hot)
        self.table = (marginal / marginal.sum(-1, keepdim=True)).log()

    def conditionals(self, words: Tensor) -> Tensor:
        """(B, 4) words 0 … 2, or 3 for a mask → log p (B, 4, 3)."""
        return self.table[(words * 4 ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)]

    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits as features: special tokens are impossible, but for the mask, of which SUBS has to take care."""
        words = torch.where(input_ids == self.tokenizer.mask_token_id, WORDS, input_ids - 7)[:, 1 : LENGTH + 1]
        logits = torch.full((*input_ids.shape, len(self.tokenizer)), -1e3, dtype=torch.float64)
        logits[..., self.tokenizer.mask_token_id] = 2.0
        logits[:, 1 : LENGTH + 1, 7:] = self.conditionals(words)
        return logits


@pytest.fixture
def oracle() -> TableModel:
    return TableModel()

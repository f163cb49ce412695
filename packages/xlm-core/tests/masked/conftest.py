"""An oracle: a small joint distribution whose conditionals are known, as a network that fills masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from xlm.masked.unmasking import MaskedNetwork, TokenDraw
from xlm.sampling import LogitsSampler

VOCAB, LENGTH = 3, 4
MASK = VOCAB  # the id after the tokens


@dataclass
class Oracle:
    """p(x) over 3^4 sequences, and log p(x_i | visible) for every way to mask some of them."""

    joint: Tensor = field(init=False)
    table: Tensor = field(init=False)
    sequences: Tensor = field(init=False)
    ran_on: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    head_rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.joint = torch.randn(VOCAB**LENGTH, dtype=torch.float64).mul(1.5).softmax(0)
        self.sequences = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
        states = torch.tensor(list(itertools.product(range(VOCAB + 1), repeat=LENGTH)))
        agrees = ((states[:, None] == self.sequences) | (states[:, None] == MASK)).all(-1)
        weight = agrees.double() * self.joint  # (states, sequences)
        one_hot = torch.nn.functional.one_hot(self.sequences, VOCAB + 1).double()
        marginal = torch.einsum("sx,xlv->slv", weight, one_hot)
        self.table = (marginal / marginal.sum(-1, keepdim=True)).log()

    def network(self) -> MaskedNetwork:
        """What it was run on is noted, and on how many positions its output layer."""

        def features(ids: Tensor, rows: Tensor, mask_prob: Tensor, index: Tensor) -> Tensor:
            self.ran_on.append((rows, mask_prob))
            powers = (VOCAB + 1) ** torch.arange(LENGTH - 1, -1, -1)
            return self.table[(ids * powers).sum(-1)].flatten(0, 1)[index]

        def logits(x: Tensor) -> Tensor:
            self.head_rows.append(len(x))
            # A network knows nothing of SUBS: it may well give weight to the mask token.
            return torch.cat([x[:, :VOCAB], torch.full_like(x[:, :1], 3.0)], dim=1)

        return MaskedNetwork(features, logits)

    def chain(self, grid: Tensor, remasking: float = 0.0) -> Tensor:
        """What T steps of the textbook chain make of masks alone, p over sequences, discretisation included.

        q(z_s | z_t): a mask becomes x with probability (α_s − (1 − σ) α_t)/(1 − α_t) · p(x | z_t), a token becomes a
        mask with probability σ = min(η, (1 − α_s)/α_t); all positions on their own.
        """
        states = torch.tensor(list(itertools.product(range(VOCAB + 1), repeat=LENGTH)))
        p = torch.zeros(len(states), dtype=torch.float64)
        p[-1] = 1
        one_hot = torch.nn.functional.one_hot(states, VOCAB + 1).double()
        for alpha_t, alpha_s in itertools.pairwise((1 - grid).tolist()):
            sigma = min(remasking, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 0.0
            fill = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
            from_mask = fill * self.table.exp()
            from_mask[..., MASK] = 1 - fill
            from_token = (1 - sigma) * one_hot
            from_token[..., MASK] = sigma
            step = torch.where((states == MASK)[..., None], from_mask, from_token)
            p = torch.einsum("z,za,zb,zc,zd->abcd", p, *step.unbind(1)).reshape(-1)
        done = p.reshape([VOCAB + 1] * LENGTH)[:VOCAB, :VOCAB, :VOCAB, :VOCAB].reshape(-1)
        assert abs(float(done.sum()) - 1) < 1e-9
        return done

    def chi_squared(self, ids: Tensor, expected: Tensor | None = None) -> float:
        """(χ² − degrees of freedom) / √(2 · degrees): about standard normal if ids (N, 4) follow the joint."""
        code = (ids * VOCAB ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)
        observed = torch.bincount(code, minlength=VOCAB**LENGTH).double()
        wanted = (self.joint if expected is None else expected) * len(ids)
        freedom = len(wanted) - 1
        return float((((observed - wanted) ** 2 / wanted).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def draw() -> TokenDraw:
    return TokenDraw(LogitsSampler(), [MASK])


@pytest.fixture
def all_masked() -> Callable[[int], Tensor]:
    return lambda n: torch.full((n, LENGTH), MASK)

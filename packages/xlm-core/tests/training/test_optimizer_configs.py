"""Every member of the group `optimizer` learns, continues from its state bit for bit, and decays only matrices."""

from __future__ import annotations

import io

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from xlm.compose.load import core_file
from xlm.errors import ConfigError
from xlm.model import Model
from xlm.training.lion import Lion
from xlm.training.optim import build_optimizer

NAMES = ("adafactor", "adam", "adamw", "lion", "muon", "sgd")


class Network(nn.Module, Model):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8)])
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.layers[0](self.embed(ids)).tanh()))
        return logits


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> list[float]:
    ids, losses = torch.arange(22).view(2, 11) % 11, []
    for _ in range(number):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(1, 1).flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_continues_exactly(name: str) -> None:
    config = OmegaConf.merge(core_file(f"optimizer/{name}.yaml"), {"lr": 3e-3} if name == "lion" else {})
    straight = network()
    losses = steps(straight, build_optimizer(config, straight), 12)
    assert losses[-1] < losses[0]

    first = network()
    optimizer = build_optimizer(config, first)
    decays = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[1] == 0.0
    steps(first, optimizer, 5)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    second = network()
    second.load_state_dict(stored["model"])
    resumed = build_optimizer(config, second)
    resumed.load_state_dict(stored["optimizer"])
    assert steps(second, resumed, 7) == losses[5:]
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), straight.parameters(), strict=True))


def test_lion_is_algorithm_2_of_its_paper() -> None:
    """Written out in plain numbers: c = β1 m + (1 − β1) g; θ −= η (sign(c) + λ θ); m = β2 m + (1 − β2) g."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = Lion([parameter], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    theta, momentum = [1.0, -2.0, 0.5], [0.0, 0.0, 0.0]
    for gradient in ([1.0, -1.0, 0.0], [-3.0, 2.0, 0.1], [0.2, 0.2, -9.0]):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        for i, g in enumerate(gradient):
            c = 0.9 * momentum[i] + 0.1 * g
            sign = (c > 0) - (c < 0)
            theta[i] -= 0.1 * (sign + 0.5 * theta[i])
            momentum[i] = 0.99 * momentum[i] + 0.01 * g
        assert parameter.detach().tolist() == pytest.approx(theta, abs=1e-6)
    assert optimizer.state[parameter]["momentum_buffer"].tolist() == pytest.approx(momentum, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1.0}, "optimizer.lr: Invalid learning rate: -1"),
        ({"betas": [0.9, 1.0]}, "optimizer.betas: Invalid beta parameter at index 1: 1.0"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay: Invalid weight_decay value: -0.1"),
        ({"lr": "fast"}, "optimizer.lr is 'fast', and must be a number"),
        ({"momentum": 0.9}, "momentum"),
    ],
)
def test_values_that_lion_refuses(options: dict[str, object], says: str) -> None:
    config = OmegaConf.create({"optimizer": {**core_file("optimizer/lion.yaml"), **options}})
    with pytest.raises(ConfigError, match=says):
        build_optimizer(config.optimizer, network())

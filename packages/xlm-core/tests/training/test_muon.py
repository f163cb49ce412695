"""Muon beside AdamW: which parameters, which step, state that comes back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from xlm.modules.ddit_simple import DDiTLayer, DDiTLayerList
from xlm.modules.position import RotaryEmbedding
from xlm.modules.rotary_transformer import RotaryTransformerLayer, RotaryTransformerLayerList
from xlm.training.muon import MuonWithAdamW, orthogonal, stacked_matrices
from xlm.training.optim import build_optimizer

CONFIG = OmegaConf.create({"_target_": "xlm.training.muon.MuonWithAdamW", "_partial_": True, "lr": 1e-2})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.layers = RotaryTransformerLayerList.from_layer(
            RotaryTransformerLayer(16, 2, dropout=0.0), 2, RotaryEmbedding(8)
        )
        self.head = nn.Linear(16, 11)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(ids), None))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def train(model: Net, optimizer: torch.optim.Optimizer, steps: int) -> float:
    ids = torch.arange(22).view(2, 11) % 11
    loss = torch.tensor(0.0)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(1, 1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(*shape) * 100, iterations=8))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_only_matrices_of_the_layers_are_orthogonalised() -> None:
    model = net()
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)] for p in stacked_matrices(model)}
    assert len(found) == 2 * 4
    assert all(name.startswith("layers.") and name.endswith("weight") for name in found)
    assert not any("norm" in name for name in found)


def test_every_parameter_is_in_one_group() -> None:
    model = net()
    optimizer = build_optimizer(CONFIG, model)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_a_matrix_steps_by_the_learning_rate_and_the_rest_as_with_adamw() -> None:
    model, reference = net(), net()
    muon = build_optimizer(OmegaConf.merge(CONFIG, {"weight_decay": 0.0}), model)
    adamw = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    before = model.layers[0].o_proj.weight.detach().clone()
    train(model, muon, 1)
    train(reference, adamw, 1)
    torch.testing.assert_close(model.embed.weight, reference.embed.weight)
    torch.testing.assert_close(model.head.bias, reference.head.bias)
    step = (model.layers[0].o_proj.weight.detach() - before).pow(2).mean().sqrt()
    # 0.2 · √16 · (an orthogonal 16 × 16 matrix, whose entries have the root mean square 1/√16)
    assert float(step) == pytest.approx(1e-2 * 0.2, rel=0.3)


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_a_matrix_takes_the_steps_of_torch(shape: tuple[int, int]) -> None:
    """torch's iteration is in bfloat16, which keeps two to three digits."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(start) for start in (torch.zeros(shape), torch.zeros(shape)))
    muon = MuonWithAdamW([{"params": [ours], "stacked": True}], lr=1e-2)
    reference = torch.optim.Muon([theirs], lr=1e-2, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape)
        muon.step()
        reference.step()
    assert float((ours - theirs).detach().norm() / theirs.detach().norm()) < 0.02


def test_it_learns_and_goes_on_from_its_state() -> None:
    straight, stopped = net(), net()
    optimizer = build_optimizer(CONFIG, straight)
    first = train(straight, optimizer, 1)
    assert train(straight, optimizer, 39) < first / 2
    half = build_optimizer(CONFIG, stopped)
    train(stopped, half, 20)
    state = copy.deepcopy(half.state_dict())
    resumed = build_optimizer(CONFIG, stopped)
    resumed.load_state_dict(state)
    train(stopped, resumed, 20)
    for a, b in zip(straight.parameters(), stopped.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_whoever_clips_inside_the_closure_sees_every_parameter() -> None:
    model = net()
    optimizer = build_optimizer(CONFIG, model)
    seen: list[int] = []

    def closure() -> float:
        seen.extend(id(p) for group in optimizer.param_groups for p in group["params"])
        assert torch.is_grad_enabled()
        return 1.5

    assert optimizer.step(closure) == 1.5
    assert sorted(seen) == sorted(id(p) for p in model.parameters())


class Apart(nn.Module):
    """The maps of a fused layer as linear maps of their own."""

    def __init__(self, fused: nn.Linear, number: int) -> None:
        super().__init__()
        parts = fused.weight.detach().chunk(number)
        self.layers = nn.ModuleList(nn.Linear(fused.in_features, len(part), bias=False) for part in parts)
        for layer, part in zip(self.layers, parts, strict=True):
            layer.weight = nn.Parameter(part.clone())


@pytest.mark.parametrize(("name", "number"), [("attn_qkv", 3), ("adaln_modulation", 6), ("mlp.0", 1), ("o_proj", 1)])
@pytest.mark.parametrize("d_cond", [16, 48, 96])
def test_maps_in_one_matrix_take_the_steps_of_maps_apart(name: str, number: int, d_cond: int) -> None:
    """Whatever the shapes: 16 · 6 rows over 48 columns are one of two, a feed-forward of 3 · 16 rows is one map."""
    torch.manual_seed(0)
    layer = DDiTLayer(16, 2, dim_feedforward=48, dropout=0.0, d_cond=d_cond)
    model: Any = nn.Module()
    model.layers = DDiTLayerList.from_layer(layer, 2, RotaryEmbedding(8))  # the second is a copy of the first
    fused = model.layers[1].get_submodule(name)
    nn.init.normal_(fused.weight, std=0.1)
    apart = Apart(fused, number)
    for _ in range(2):
        gradient = torch.randn_like(fused.weight) * torch.logspace(-3, 0, len(fused.weight))[:, None]
        for optimizer, weights, parts in (
            (build_optimizer(CONFIG, model), [fused.weight], [gradient]),
            (build_optimizer(CONFIG, apart), [part.weight for part in apart.layers], gradient.chunk(number)),
        ):
            for weight, grad in zip(weights, parts, strict=True):
                weight.grad = grad
            optimizer.step()
    torch.testing.assert_close(fused.weight, torch.cat([part.weight for part in apart.layers]))


def test_the_state_knows_nothing_of_maps_and_a_copy_steps_alike() -> None:
    model = net()
    optimizer = build_optimizer(CONFIG, model)
    train(model, optimizer, 2)
    state = optimizer.state_dict()
    options = {"lr", "betas", "eps", "weight_decay", "amsgrad", "foreach", "maximize", "capturable", "differentiable",
               "fused", "decoupled_weight_decay", "stacked", "momentum", "iterations", "params"}  # fmt: skip
    assert [set(group) for group in state["param_groups"]] == [options] * 2
    twin, of_twin = copy.deepcopy((model, optimizer))
    train(model, optimizer, 2)
    train(twin, of_twin, 2)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        MuonWithAdamW([{"params": [nn.Parameter(torch.zeros(3))], "stacked": True}])

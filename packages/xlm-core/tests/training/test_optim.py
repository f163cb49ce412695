"""Parameter groups are a partition, and schedules are those of transformers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import DictConfig, OmegaConf
from torch import nn

from xlm.errors import ConfigError
from xlm.model import Model
from xlm.modules.position import RotaryEmbedding
from xlm.modules.rotary_transformer import RotaryTransformerLayer, RotaryTransformerLayerList
from xlm.training.optim import _former_groups, build_optimizer, create_lr_scheduler, num_parameters, parameter_groups
from xlm.utils.instantiate import instantiate

ADAMW = OmegaConf.create({"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.5, "betas": [0.8, 0.9]})

MUON = OmegaConf.create({"_target_": "xlm.training.muon.MuonWithAdamW", "lr": 1e-2})


class Split(nn.Module):
    """A network that says which weights decay."""

    def __init__(self, forget: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.forget, self.twice = forget, twice

    def get_named_params_for_weight_decay(self) -> Any:
        yield "linear.weight", self.linear.weight

    def get_named_params_for_no_weight_decay(self) -> Any:
        if self.twice:
            yield "linear.weight", self.linear.weight
        if not self.forget:
            yield "linear.bias", self.linear.bias


def test_a_split_gives_two_groups() -> None:
    optimizer = build_optimizer(ADAMW, Split())
    assert [(g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [(0.5, 1), (0.0, 1)]
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.9)


def test_a_module_without_a_split_is_one_group_of_what_is_trainable() -> None:
    linear = nn.Linear(3, 2)
    linear.bias.requires_grad_(False)
    assert [len(g["params"]) for g in parameter_groups(linear, 0.1)] == [1]
    assert num_parameters(linear) == 8
    assert num_parameters(linear, trainable_only=True) == 6


def test_own_groups_win() -> None:
    class Own(Split):
        def get_param_groups(self) -> list[dict[str, Any]]:
            return [{"params": list(self.parameters()), "lr": 7.0}]

    assert build_optimizer(ADAMW, Own()).param_groups[0]["lr"] == 7.0


def test_lbfgs_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="optimizer: LBFGS computes the loss of a batch several times in a step"):
        build_optimizer(OmegaConf.create({"_target_": "torch.optim.LBFGS", "_partial_": True}), Split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1}, "optimizer.lr: Invalid learning rate: -1"),
        ({"lr": "fast"}, "optimizer.lr is 'fast', and must be a number"),
        ({"lr": float("nan")}, "optimizer.lr is nan, and must be a number"),
        ({"betas": [0.9, 1.5]}, "optimizer.betas: Invalid beta parameter at index 1: 1.5"),
        ({"betas": 0.9}, "optimizer.betas is 0.9, and must be a list"),
        ({"lrr": 1}, "Did you mean 'lr'?"),
    ],
)
def test_values_that_an_optimizer_refuses(options: dict[str, Any], says: str) -> None:
    config = OmegaConf.create({"optimizer": {**ADAMW, **options}})
    with pytest.raises(ConfigError, match=re.escape(says)):
        build_optimizer(config.optimizer, nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("fault", "says"), [("forget", "'linear.bias' .* in no"), ("twice", "'linear.weight' is in two")]
)
def test_a_split_that_is_no_partition_is_refused(fault: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parameter_groups(Split(**{fault: True}), 0.1)


class Convolving(nn.Module, Model):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        layer = RotaryTransformerLayer(16, 2, dropout=0.0, short_conv=True)
        self.layers = RotaryTransformerLayerList.from_layer(layer, 2, RotaryEmbedding(8))
        self.head = nn.Linear(16, 11)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(self.embed(ids), None))
        return logits


def convolving(cfg: DictConfig) -> tuple[Convolving, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Convolving()
    return model, build_optimizer(cfg, model)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    ids = torch.arange(22).view(2, 11) % 11
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(1, 1).flatten()).backward()
        optimizer.step()


@pytest.mark.parametrize("cfg", [ADAMW, MUON], ids=["adamw", "muon"])
def test_a_state_from_before_short_convolutions_stopped_decaying_goes_on(cfg: DictConfig) -> None:
    """Version 1.0.0 had them in the first group, by their place in the network; without decay nothing else changed."""
    cfg = OmegaConf.merge(cfg, {"weight_decay": 0.0})
    straight, optimizer = convolving(cfg)
    take_steps(straight, optimizer, 4)

    stopped, _ = convolving(cfg)
    former = _former_groups(parameter_groups(stopped, 0.0), stopped)
    names = [name for name, p in stopped.named_parameters() if any(p is q for q in former[0]["params"])]
    assert names == [n for n, p in stopped.named_parameters() if p.ndim == 2 and n != "embed.weight"]
    factory = instantiate(cfg, _partial_=True, _convert_="all")
    split = getattr(factory.func, "split_groups", None)
    first = factory(former if split is None else split(former, stopped))
    take_steps(stopped, first, 2)
    resumed = build_optimizer(cfg, stopped)
    resumed.load_state_dict(first.state_dict())
    take_steps(stopped, resumed, 2)
    for a, b in zip(straight.parameters(), stopped.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    again = build_optimizer(cfg, stopped)
    again.load_state_dict(resumed.state_dict())  # its own are loaded as they are
    assert all(torch.equal(again.state[p]["step"], resumed.state[p]["step"]) for p in stopped.parameters())


def test_a_state_of_other_sizes_is_still_refused() -> None:
    _, optimizer = convolving(ADAMW)
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(build_optimizer(ADAMW, Split()).state_dict())


@pytest.mark.parametrize("cfg", [ADAMW, MUON], ids=["adamw", "muon"])
def test_steps_on_a_cpu_are_fused_and_those_of_torchs_loop(cfg: DictConfig) -> None:
    fused, loop = convolving(cfg), convolving(OmegaConf.merge(cfg, {"fused": False}))
    for (model, optimizer), expected in ((fused, True), (loop, False)):
        assert {group["fused"] for group in optimizer.param_groups} == {expected}
        take_steps(model, optimizer, 3)
    for a, b in zip(fused[0].parameters(), loop[0].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_a_fused_optimizer_are_clipped_in_mixed_precision() -> None:
    model, optimizer = convolving(ADAMW)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 1.0)
    assert sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) == pytest.approx(1)


def test_other_optimizers_devices_and_choices_stay_with_torch() -> None:
    sgd = OmegaConf.create({"_target_": "torch.optim.SGD", "lr": 0.1})
    with torch.device("meta"):
        elsewhere = Split()
    for cfg, model in ((sgd, Split()), (OmegaConf.merge(ADAMW, {"foreach": True}), Split()), (ADAMW, elsewhere)):
        assert {group["fused"] for group in build_optimizer(cfg, model).param_groups} == {None}


def schedule(**options: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = create_lr_scheduler(optimizer, **options)["scheduler"]
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules() -> None:
    assert schedule(name="constant") == [1.0] * 10
    warm = schedule(name="constant_with_warmup", fraction_warmup_steps=0.5, num_training_steps=10)
    assert warm[:6] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    cosine = schedule(name="cosine_with_min_lr", num_training_steps=9, min_lr=0.25)
    assert cosine[0] == 1.0
    assert cosine[-1] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "cosin", "num_training_steps": 3}, "lr_scheduler.name: cosin is not a valid"),
        ({"name": "cosine", "interval": "stepp"}, "must be step or epoch. Did you mean 'step'?"),
        ({"name": "cosine", "num_warmup_steps": "few"}, "lr_scheduler.num_warmup_steps is 'few', and must be a whole"),
        ({"name": "cosine_with_min_lr", "num_training_steps": 9}, "lr_scheduler: One of min_lr or min_lr_rate"),
        ({"name": "cosine", "fraction_warmup_steps": 0.1}, "needs num_training_steps"),
        ({"name": "cosine", "fraction_warmup_steps": 0.1, "num_warmup_steps": 3, "num_training_steps": 9}, "not both"),
    ],
)
def test_schedules_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        schedule(**options)

"""Averaged weights, the finite-loss guard and random state, each against a direct computation."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from xlm.errors import NonFiniteLossError
from xlm.training.ema import ExponentialMovingAverage, averaged_state_dict
from xlm.training.guards import FiniteLossGuard
from xlm.training.rng import RandomState, capture, restore


def trainer(step: int = 0, every: int = 10) -> Any:
    return SimpleNamespace(
        global_step=step, log_every_n_steps=every, world_size=1, global_rank=0, accumulate_grad_batches=1
    )


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("during_validation", [True, False])
def test_a_tied_weight_has_one_average(tmp_path: Path, during_validation: bool) -> None:
    module: Any = Tied()
    ema = ExponentialMovingAverage(decay=0.5)
    ema.on_fit_start(trainer(), module)
    with torch.no_grad():
        module.embed.weight.add_(1.0)
    ema.on_train_batch_end(trainer(1), module, None, None, 0)
    raw = module.embed.weight.detach().clone()
    if during_validation:
        ema.on_validation_start(trainer(), module)
    checkpoint: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    ema.on_save_checkpoint(trainer(), module, checkpoint)
    torch.save(checkpoint, tmp_path / "c.ckpt")
    for saved in (checkpoint, torch.load(tmp_path / "c.ckpt", weights_only=True)):
        averaged = averaged_state_dict(saved)
        assert averaged is not None
        for name in ("embed.weight", "head.weight"):
            assert torch.equal(saved["state_dict"][name], raw)
            assert torch.equal(averaged[name], saved["xlm_ema"]["average"]["embed.weight"])
            assert not torch.equal(averaged[name], raw)


def test_the_average_is_the_recursion_of_the_weights() -> None:
    module: Any = nn.Linear(2, 1, bias=False)
    ema = ExponentialMovingAverage(decay=0.9)
    ema.on_fit_start(trainer(), module)
    wanted = module.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            module.weight.add_(torch.randn_like(module.weight))
        ema.on_train_batch_end(trainer(step), module, None, None, 0)
        ema.on_train_batch_end(trainer(step), module, None, None, 0)  # the second half of an accumulation
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * module.weight.detach()
    raw = module.weight.detach().clone()
    ema.on_validation_start(trainer(), module)
    torch.testing.assert_close(module.weight.detach(), wanted)
    checkpoint: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    ema.on_save_checkpoint(trainer(), module, checkpoint)
    ema.on_validation_end(trainer(), module)
    assert torch.equal(module.weight.detach(), raw)
    assert torch.equal(checkpoint["state_dict"]["weight"], raw)
    averaged = averaged_state_dict(checkpoint)
    assert averaged is not None
    torch.testing.assert_close(averaged["weight"], wanted)
    again = ExponentialMovingAverage(decay=0.9)
    again.on_load_checkpoint(trainer(), module, checkpoint)
    again.on_fit_start(trainer(), module)
    torch.testing.assert_close(again._average["weight"], wanted)
    assert again.num_updates == 39


class Broken(LightningModule):
    """Shows its weight to the test, and fails in the middle of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append(float(self.weight.detach()))
        if batch_idx == 1:
            raise RuntimeError("broken")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*", "ignore:.*does not have many workers")
def test_raw_weights_come_back_from_a_test_that_breaks() -> None:
    module, ema = Broken(), ExponentialMovingAverage(decay=0.5)
    runs: Any = Trainer(
        accelerator="cpu", max_steps=3, limit_val_batches=0, callbacks=[ema], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = torch.utils.data.DataLoader(torch.zeros(4, 1))  # type: ignore[arg-type]
    runs.fit(module, batches)
    raw, average = float(module.weight.detach()), float(ema._average["weight"])
    assert raw == -2.0 != average
    with pytest.raises(RuntimeError, match="broken"):
        runs.test(module, batches, verbose=False)
    assert module.seen == [average, average]
    assert float(module.weight.detach()) == raw


def test_a_checkpoint_without_average_has_none() -> None:
    assert averaged_state_dict({"state_dict": {}}) is None


def test_a_decay_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="ema_decay is 1"):
        ExponentialMovingAverage(decay=1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_guard_names_the_first_bad_step_when_values_are_read(bad: float) -> None:
    guard = FiniteLossGuard()
    module: Any = None
    for step, value in ((1, 0.5), (2, bad), (3, 0.5)):
        guard.on_train_batch_end(trainer(step), module, {"loss": torch.tensor(value)}, None, 0)
    with pytest.raises(NonFiniteLossError, match="step 2"):
        guard.on_train_batch_end(trainer(10), module, {"loss": torch.tensor(0.5)}, None, 0)


def test_the_guard_of_a_run_that_logs_nothing_reads_the_loss_at_the_end_of_the_epoch() -> None:
    guard = FiniteLossGuard()
    module: Any = None
    guard.on_train_batch_end(trainer(1, every=0), module, {"loss": torch.tensor(float("nan"))}, None, 0)
    with pytest.raises(NonFiniteLossError, match="step 1"):
        guard.on_train_epoch_end(trainer(1, every=0), module)


def test_the_guard_refuses_a_checkpoint_of_a_bad_step() -> None:
    guard = FiniteLossGuard()
    module: Any = None
    guard.on_save_checkpoint(trainer(), module, {})
    guard.on_train_batch_end(trainer(3), module, {"loss": torch.tensor(float("nan"))}, None, 0)
    with pytest.raises(NonFiniteLossError):
        guard.on_save_checkpoint(trainer(), module, {})


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_random_state_goes_round() -> None:
    state = capture()
    first = draw()
    restore(state)
    assert draw() == first


def test_random_state_survives_a_checkpoint_file(tmp_path: Any) -> None:
    state = capture()
    torch.save(state, tmp_path / "s.pt")
    first = draw()
    restore(torch.load(tmp_path / "s.pt", weights_only=True))
    assert draw() == first


def test_validation_draws_the_same_every_time_and_leaves_training_alone() -> None:
    callback = RandomState(seed=3)
    module: Any = None
    state = capture()
    expected = draw()
    restore(state)
    validations = []
    for _ in range(2):
        callback.on_validation_start(trainer(), module)
        validations.append(draw())
        callback.on_validation_end(trainer(), module)
    assert validations[0] == validations[1]
    assert draw() == expected


def test_the_state_comes_back_at_the_first_batch() -> None:
    module: Any = None
    checkpoint: dict[str, Any] = {}
    RandomState(0).on_save_checkpoint(trainer(), module, checkpoint)
    expected = draw()
    resumed = RandomState(0)
    resumed.on_load_checkpoint(trainer(), module, checkpoint)
    draw()  # what making an iterator takes
    resumed.on_train_batch_start(trainer(), module, None, 0)
    assert draw() == expected


def test_a_checkpoint_within_an_accumulated_step_has_the_random_state_of_its_start() -> None:
    state, place = RandomState(1), trainer(step=4)
    place.accumulate_grad_batches = 2
    module = LightningModule()
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    state.on_train_batch_start(place, module, None, 0)
    torch.rand(5)  # the noise of the first batch
    within: dict[str, Any] = {}
    state.on_save_checkpoint(place, module, within)
    assert torch.equal(within["xlm_rng"][0]["torch"], expected)
    state.on_train_batch_start(place, module, None, 1)
    torch.rand(5)
    place.global_step = 5
    after: dict[str, Any] = {}
    state.on_save_checkpoint(place, module, after)
    assert torch.equal(after["xlm_rng"][0]["torch"], torch.get_rng_state())

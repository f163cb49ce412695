"""The monitored metric exists before training starts, and its mode fits it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from xlm.errors import ConfigError
from xlm.metrics import ExactMatch, MetricWrapper, TokenWeightedMean
from xlm.training.checkpoints import BestCheckpoint
from xlm.training.guards import MonitoredMetric


class Module(LightningModule):
    """Logs a metric of its own, as published models do, besides one that the configuration names."""

    def __init__(self, monitored: str) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.config = {"monitored_metric": monitored}
        self.metrics = {"val/lm": [MetricWrapper("known", TokenWeightedMean(), str)]}
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        return self.layer(batch).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/lm/known", 1.0)
        self.log("val/lm/own_loss", 2.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(monitored: str, folder: Path, mode: str = "min") -> tuple[Module, Trainer]:
    module = Module(monitored)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, val_check_interval=1, num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[MonitoredMetric(), BestCheckpoint(str(folder), monitored, mode)],
    )  # fmt: skip
    loader = DataLoader(torch.ones(2, 1), batch_size=1)
    try:
        trainer.fit(module, loader, loader)
    finally:
        folder.joinpath("steps").write_text(str(module.steps))
    return module, trainer


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*treespec.*")


@pytest.mark.parametrize(("name", "sanity_steps"), [("val/lm/known", 0), ("val/lm/own_loss", 1)])
def test_what_is_logged_is_monitored(name: str, sanity_steps: int, tmp_path: Path) -> None:
    module, trainer = fit(name, tmp_path)
    assert (module.steps, trainer.num_sanity_val_steps) == (2, sanity_steps)
    # All values are equal: the later weights are kept.
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(
    ("name", "hint"), [("val/lm/own_los", "Did you mean 'val/lm/own_loss'?"), ("accuracy", "val/lm/own_loss.")]
)
def test_what_nothing_logs_is_refused_before_a_step(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(name, tmp_path)
    assert str(caught.value).startswith(
        f"monitored_metric is '{name}', but validation has no such metric. It has: val/lm/known, val/lm/own_loss."
    )
    assert str(caught.value).endswith(hint)
    assert caught.value.key == "monitored_metric"
    assert (tmp_path / "steps").read_text() == "0"


def test_a_metric_of_training_is_looked_for_after_the_first_validation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'train/lm/own', but validation has no such metric"):
        fit("train/lm/own", tmp_path)
    assert (tmp_path / "steps").read_text() == "1"


@pytest.mark.parametrize(
    ("name", "mode", "better"),
    [
        ("val/lm/exact_match", "min", "max"),
        ("val/lm/accumulated_loss", "max", "min"),
        ("val/own/accuracy", "min", "max"),
        ("val/own/nll", "max", "min"),
        ("val/lm/exact_match", "max", None),
        ("val/own/length", "min", None),
    ],
)
def test_a_mode_that_does_not_fit_is_told(
    name: str, mode: str, better: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = [
        MetricWrapper("exact_match", ExactMatch(), str),
        MetricWrapper("accumulated_loss", TokenWeightedMean(), str),
    ]
    module: Any = SimpleNamespace(config={"monitored_metric": name}, metrics={"val/lm": metrics})
    callback = SimpleNamespace(monitor=name, mode=mode)
    trainer: Any = SimpleNamespace(callbacks=[callback], num_sanity_val_steps=0)
    with caplog.at_level(logging.WARNING):
        MonitoredMetric().on_fit_start(trainer, module)
    if better is None:
        assert not caplog.records
    else:
        assert f"monitored_mode={mode} keeps the" in caplog.text
        assert f"Did you mean monitored_mode={better}?" in caplog.text

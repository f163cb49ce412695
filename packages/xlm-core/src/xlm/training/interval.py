"""What has been counted since the last logged step is part of a checkpoint, so that a resumed run logs equal rows."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from xlm.training.train_log import TrainLog
from xlm.utils.rank_zero import all_gather_objects

CHECKPOINT_KEY = "xlm_interval"


@runtime_checkable
class CountsTraining(Protocol):
    """A module with metrics that are updated in every training batch."""

    def training_counts(self) -> dict[str, Any]: ...

    def load_training_counts(self, counts: dict[str, Any]) -> None: ...


class LogInterval(Callback):
    """Saves and restores the counts of the logging interval that a checkpoint falls into.

    A checkpoint in the middle of an optimizer step has the counts at the end of the step before, since the batches
    after it are repeated. For that, the counts are copied once per step if gradients are accumulated. Each process has
    its own counts; they are dropped if the number of processes changes.
    """

    def __init__(self, train_log: TrainLog) -> None:
        self.train_log = train_log
        self._step = -1
        self._at_step: dict[str, Any] | None = None
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:
            self.train_log.load_counts(self._loaded["log"])
            if isinstance(pl_module, CountsTraining):
                pl_module.load_training_counts(self._loaded["metrics"])
            self._loaded = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._at_step = self._counts(pl_module) if trainer.accumulate_grad_batches > 1 else None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        is_within_step = trainer.global_step == self._step
        counts = self._at_step if is_within_step else self._counts(pl_module)
        checkpoint[CHECKPOINT_KEY] = all_gather_objects(_on_cpu(counts))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(CHECKPOINT_KEY, [])
        if len(saved) == trainer.world_size:
            self._loaded = saved[trainer.global_rank]  # None if training failed within a step
        if self._loaded is not None:
            # A complete run doesn't train again, and its results have the last losses of a mixture's parts.
            self.train_log.latest = dict(self._loaded["log"]["latest"])

    def _counts(self, pl_module: LightningModule) -> dict[str, Any]:
        metrics = pl_module.training_counts() if isinstance(pl_module, CountsTraining) else {}
        return {"log": self.train_log.counts(), "metrics": metrics}


def metric_counts(metric: Metric) -> dict[str, Any]:
    """The state of a metric as plain values and copies of its tensors, made without waiting for the device."""
    return {"updates": metric.update_count, "states": {name: _copied(v) for name, v in metric.metric_state.items()}}


def load_metric_counts(metric: Metric, counts: dict[str, Any]) -> None:
    """Set the state of a metric to one returned by `metric_counts`."""
    for name, value in counts["states"].items():
        parts = value if isinstance(value, list) else [value]
        moved = [part.to(metric.device) for part in parts]
        setattr(metric, name, moved if isinstance(value, list) else moved[0])
    metric._update_count = counts["updates"]  # otherwise torchmetrics warns that nothing was counted
    metric._computed = None


def _copied(value: Any) -> Any:
    return [_copied(part) for part in value] if isinstance(value, list) else value.detach().clone()


def _on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_cpu(item) for item in value]
    return value.cpu() if isinstance(value, Tensor) else value

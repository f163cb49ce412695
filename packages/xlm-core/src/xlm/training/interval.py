"""Saves what was counted since the last logged step, so that a resumed run logs the means of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from xlm.training.train_log import TrainLog
from xlm.utils.rank_zero import all_gather_objects

CHECKPOINT_KEY = "xlm_interval"
_STAGE = "train/"


class LoggingInterval(Callback):
    """Carries training metrics, their counts and the tokens since the last logged step through a checkpoint.

    Comes after `train_log`, which logs and resets them. A run that resumes within an accumulation repeats the batches
    since the last optimizer step, so the state is the one right after that step.
    """

    def __init__(self, train_log: TrainLog) -> None:
        self.train_log = train_log
        self._last_step = -1
        self._at_step: dict[str, Any] | None = None
        self._pending: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        if self._pending is not None:
            self._restore(pl_module, self._pending)
            self._pending = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.accumulate_grad_batches > 1 and trainer.global_step != self._last_step:
            self._at_step = self._state(pl_module)
        self._last_step = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = self._state(pl_module) if self._at_step is None else self._at_step
        checkpoint[CHECKPOINT_KEY] = all_gather_objects(_on_cpu(state))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get(CHECKPOINT_KEY, [])
        # With another number of processes, the first logged means only cover the steps since the checkpoint.
        if len(states) == trainer.world_size:
            self._pending = self._at_step = states[trainer.global_rank]

    def _state(self, module: Any) -> dict[str, Any]:
        """A copy, made on the device without waiting for it."""
        return {
            "metrics": {name: _copied(metric) for name, metric in _metrics(module)},
            "counts": {place: n for place, n in module._counts.items() if place.startswith(_STAGE)},
            "parts": {loader: [list(sums) for sums in parts] for loader, parts in module.part_log.sums.items()},
            "log": self.train_log.interval(),
        }

    def _restore(self, module: Any, state: dict[str, Any]) -> None:
        # The scalars of the loss get their metrics at their first batch, which may come later.
        for name in state["metrics"].keys() - {name for name, _ in _metrics(module)}:
            place, _, short = name.rpartition("/")
            module.tracked.prepare(place, short, module.device)
        for name, metric in _metrics(module):
            if name in state["metrics"]:
                _load(metric, state["metrics"][name])
        module._counts.update(state["counts"])
        module.part_log.sums.update(state["parts"])
        self.train_log.load_interval(state["log"])


def _metrics(module: Any) -> Iterator[tuple[str, Metric]]:
    """`stage/loader/name` and the metric, for the training stage of this process."""
    for place, wrappers in module.metrics.items():
        if place.startswith(_STAGE):
            for wrapper in wrappers:
                yield f"{place}/{wrapper.name}", wrapper.metric
    yield from module.tracked.on_this_process(_STAGE)


def _copied(metric: Metric) -> dict[str, Any]:
    states = {name: getattr(metric, name) for name in metric._defaults}
    return {"updates": metric._update_count, **{name: _clone(value) for name, value in states.items()}}


def _clone(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else [each.detach().clone() for each in value]


def _load(metric: Metric, state: dict[str, Any]) -> None:
    for name in metric._defaults:
        if name in state:
            value = state[name]
            moved = value.to(metric.device) if isinstance(value, Tensor) else [each.to(metric.device) for each in value]
            setattr(metric, name, moved)
    metric._update_count, metric._computed = state["updates"], None


def _on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_cpu(item) for item in value]
    return value.cpu() if isinstance(value, torch.Tensor) else value

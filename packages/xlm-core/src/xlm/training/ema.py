"""An exponential moving average of the weights, used for validation and test, and saved with the raw weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from xlm.training.resume import AVERAGED as CHECKPOINT_KEY
from xlm.training.sharding import as_parameter, local


class ExponentialMovingAverage(Callback):
    """Keeps `decay · average + (1 − decay) · weights` of every trainable parameter, in fp32.

    The average replaces the weights during validation and test. The decay is reduced in the first updates to
    `min(decay, (1 + n) / (10 + n))` after n updates, so that short runs do not average over the initialization.

    Args:
        decay: between 0 and 1, usually 0.999 or 0.9999.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"ema_decay is {decay}, and must lie between 0 and 1.")
        self.decay = decay
        self.num_updates = 0
        self._last_step = -1
        self._average: dict[str, torch.Tensor] = {}
        self._raw: dict[str, torch.Tensor] = {}

    def _parameters(self, pl_module: LightningModule) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in pl_module.named_parameters() if p.requires_grad}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = self._parameters(pl_module)
        for name, parameter in parameters.items():
            start = self._average.get(name, parameter.detach())
            self._average[name] = start.to(parameter.device, torch.float32, copy=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # In on_fit_start the step of a resumed run is not restored yet: its first batch would count as a step.
        self._last_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._last_step:
            return  # gradients are still accumulating
        self._last_step = trainer.global_step
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        parameters = self._parameters(pl_module)
        averages = [local(self._average[name]) for name in parameters]
        current = [local(p.detach()).float() for p in parameters.values()]
        get_ema_multi_avg_fn(decay)(averages, current, self.num_updates)

    @torch.no_grad()
    def _swap_in(self, pl_module: LightningModule) -> None:
        if self._raw or not self._average:
            return
        for name, parameter in self._parameters(pl_module).items():
            self._raw[name] = parameter.detach().clone()
            parameter.copy_(self._average[name])

    @torch.no_grad()
    def _swap_out(self, pl_module: LightningModule) -> None:
        for name, parameter in self._parameters(pl_module).items():
            if name in self._raw:
                parameter.copy_(self._raw[name])
        self._raw.clear()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out(pl_module)

    def forget(self) -> None:
        """Drop the average, because the module now holds averaged weights: they are not replaced any more."""
        self._average.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._swap_out(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # A checkpoint saved during validation also contains the raw weights.
        checkpoint["state_dict"].update(_under_all_names(checkpoint["state_dict"], self._raw))
        checkpoint[CHECKPOINT_KEY] = {
            "decay": self.decay,
            "num_updates": self.num_updates,
            "average": dict(self._average),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(CHECKPOINT_KEY)
        if saved is None:
            return
        self.num_updates = saved["num_updates"]
        parameters = self._parameters(pl_module)
        # Whole tensors, if the run was not sharded before.
        self._average = {
            name: as_parameter(value, parameters[name]) if name in parameters else value
            for name, value in saved["average"].items()
        }


def averaged_state_dict(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor] | None:
    """The checkpoint's state dict with averaged weights in place of the raw ones; None if it has no average."""
    saved = checkpoint.get(CHECKPOINT_KEY)
    if saved is None:
        return None
    raw: dict[str, torch.Tensor] = checkpoint["state_dict"]
    average = _under_all_names(raw, saved["average"])
    return {name: average[name].to(t.dtype) if name in average else t for name, t in raw.items()}


def _under_all_names(state_dict: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`values` with all names of tied weights, which a module's parameters name once and its state dict twice."""
    by_place = {
        (local(state_dict[name]).data_ptr(), state_dict[name].shape): value
        for name, value in values.items()
        if name in state_dict and local(state_dict[name]).numel()
    }
    tied = {
        name: by_place[place]
        for name, tensor in state_dict.items()
        if name not in values and (place := (local(tensor).data_ptr(), tensor.shape)) in by_place
    }
    return {**values, **tied}

"""Stops a run whose loss is no longer finite, without a device synchronisation of its own."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xlm.errors import NonFiniteLossError


class FiniteLossGuard(Callback):
    """Remembers on the device the first step whose loss was not finite; reads it when values are logged anyway.

    `check()` is also called before a checkpoint is written, so that no checkpoint holds weights that such a loss
    has touched.
    """

    def __init__(self) -> None:
        self._first_bad: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, torch.Tensor):
            return
        if self._first_bad is None or self._first_bad.device != loss.device:
            self._first_bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        is_new = ~torch.isfinite(loss.detach()) & (self._first_bad < 0)
        self._first_bad = torch.where(is_new, trainer.global_step, self._first_bad)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:  # 0: nothing is ever logged
            self.check()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.check()

    def check(self) -> None:
        """Raise `NonFiniteLossError` if a loss since the start was infinite or not a number."""
        if self._first_bad is not None and (step := int(self._first_bad)) >= 0:
            self._first_bad = None  # said once; the checkpoint of the exception is refused by the raise itself
            raise NonFiniteLossError(step)

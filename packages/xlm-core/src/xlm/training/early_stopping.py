"""Stops a run whose validation no longer improves; a stopped run stays stopped when it is started again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from torch import Tensor

from xlm.utils.annotations import NonNegative


class EarlyStopping(lightning_callbacks.EarlyStopping):
    """Lightning's EarlyStopping, checked after each validation and counted in validations.

    A checkpoint contains the best value and the validations since, so a resumed run stops at the same step as one
    that was not interrupted. A run that has stopped trains no further when it is resumed, unless `patience` is larger.

    Args:
        monitor: name of the metric.
        mode: `min` if lower is better, `max` if higher is better.
        patience: validations without improvement after which the run stops.
        min_delta: smallest change that counts as an improvement.
        options: of Lightning's class, such as `stopping_threshold` and `divergence_threshold`.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["min", "max"] = "min",
        patience: Annotated[int, Ge(1)] = 5,
        min_delta: NonNegative = 0.0,
        **options: Any,
    ) -> None:
        options.setdefault("check_on_train_epoch_end", False)
        super().__init__(monitor=monitor, mode=mode, patience=patience, min_delta=min_delta, **options)
        self.best_step = 0
        #: Step and message of the stop; None while the run has not stopped.
        self.stopped_at: tuple[int, str] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopped_at is not None and self.wait_count >= self.patience:
            trainer.should_stop = True
        else:
            self.stopped_at = None

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        before = self.best_score.clone()
        super()._run_early_stopping_check(trainer)
        if not torch.equal(self.best_score.to(before), before):
            self.best_step = trainer.global_step
        if self.stopping_reason_message is not None and self.stopped_at is None:
            self.stopped_at = trainer.global_step, self._message(trainer.callback_metrics[self.monitor])

    def _message(self, current: Tensor) -> str:
        if self.wait_count < self.patience:
            return f"{self.monitor} is {float(current):.4g}, which is outside the limits of the callback"
        counted = "1 validation" if self.wait_count == 1 else f"{self.wait_count} validations"
        best = f"{float(self.best_score):.4g} at step {self.best_step}"
        return f"{self.monitor} has not improved for {counted} (best: {best})"

    @property
    def line(self) -> str | None:
        """What is printed at the end of a run that has stopped."""
        if self.stopped_at is None:
            return None
        step, message = self.stopped_at
        return f"Stopped early at step {step}: {message}."

    def state_dict(self) -> dict[str, Any]:
        stopped = None if self.stopped_at is None else list(self.stopped_at)
        return {**super().state_dict(), "best_step": self.best_step, "stopped_at": stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience  # that of the configuration, which may have changed
        super().load_state_dict(state_dict)
        self.patience = patience
        self.stopping_reason_message = None
        self.best_step = state_dict.get("best_step", 0)
        stopped = state_dict.get("stopped_at")
        self.stopped_at = None if stopped is None else (int(stopped[0]), str(stopped[1]))


def stopped_early(trainer: Trainer) -> list[str]:
    """The lines of all callbacks that have stopped a run."""
    found: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback.line for callback in found if isinstance(callback, EarlyStopping) and callback.line]

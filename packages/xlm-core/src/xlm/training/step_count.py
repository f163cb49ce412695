"""One count of steps: every logged row has the number of finished optimizer steps, also after a resume."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class StepCount(Callback):
    """Labels what Lightning logs with `trainer.global_step`, as the terminal, checkpoints and results do.

    Lightning has a second count of its own for loggers. It is one less than the number of steps, and is sometimes one
    more after a resume. That count also decides which steps are logged, so it is corrected before every batch.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        connector: Any = trainer._logger_connector
        if getattr(connector.log_metrics, "counts_steps", False):  # called again before a test
            return
        log = connector.log_metrics

        def log_metrics(metrics: dict[str, Any], step: int | None = None) -> None:
            if step is None and metrics and "step" not in metrics:  # a value named `step` is the module's own label
                step = trainer.global_step
                metrics = {"epoch": trainer.current_epoch, **metrics}
            log(metrics, step)

        log_metrics.counts_steps = True  # type: ignore[attr-defined]
        connector.log_metrics = log_metrics

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

"""Loggers that survive being stopped: metrics as one growing CSV, and TensorBoard without its import-time noise."""

from __future__ import annotations

import csv
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

FIELDS = ("step", "name", "value", "time")


class CSVMetrics(Logger):
    """`metrics.csv` with one row per value: step, name, value, seconds since the epoch.

    The long form needs no rewriting when a new metric appears, so a kill loses at most the row being written; rows
    behind the step a run resumes from are dropped by `drop_after`.
    """

    def __init__(self, save_dir: str, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.path = Path(save_dir) / filename

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The composed config is a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        now = f"{time.time():.3f}"
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(FIELDS)
            writer.writerows(
                (step, name, repr(float(value)), now) for name, value in metrics.items() if name != "epoch"
            )

    @rank_zero_only
    def drop_after(self, step: int, validation_too: bool = False) -> None:
        """Keep the rows up to and including a step, without that step's validation if it will be done again."""
        if not self.path.exists():
            return
        again = (step, "val") if validation_too else None
        kept = [row for row in read_metrics(self.path) if row[0] <= step and (row[0], row[1].split("/")[0]) != again]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(FIELDS)
            writer.writerows((s, name, repr(value), when) for s, name, value, when in kept)
        temporary.replace(self.path)


def read_metrics(path: Path) -> Iterator[tuple[int, str, float, str]]:
    """The rows of a `metrics.csv`; a last line that a kill cut short is passed over."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            if len(row) == len(FIELDS) and row[0].isdigit():
                yield int(row[0]), row[1], float(row[2]), row[3]


class LogRewind(Callback):
    """Drops logged rows of what a resumed run does again; a run that starts anew starts with none."""

    def __init__(self) -> None:
        self._resumed = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed = True
        # The harness has settled the counters by now (see `xlm.data.progress`).
        validation = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
        self._drop(trainer, checkpoint["global_step"], validation["ready"] > validation["completed"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._resumed:
            self._drop(trainer, -1, False)

    @staticmethod
    def _drop(trainer: Trainer, step: int, validation_too: bool) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVMetrics):
                logger.drop_after(step, validation_too)


class TensorBoardMetrics(TensorBoardLogger):
    """TensorBoard event files in `<run>/tensorboard`."""

    def __init__(self, save_dir: str, **kwargs: Any) -> None:
        super().__init__(save_dir=save_dir, name="tensorboard", version="", **kwargs)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The composed config is a file of its own."""

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending, and no file of hyperparameters."""
        self.experiment.flush()

"""The checkpoints that a run keeps: the best, the newest of every n steps, and the last one before it stopped."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from xlm.errors import NonFiniteLossError, RunInUseError, TrainingInterrupted
from xlm.training.guards import GracefulSignals
from xlm.training.stopping import AgreedSignal
from xlm.utils.rank_zero import RankedLogger

log = RankedLogger(__name__, rank_zero_only=True)

LAST = "last.ckpt"
BEST = "best.ckpt"


def best_or_last(directory: Path) -> Path | None:
    """The best checkpoint in a folder, otherwise the newest; None if there is none."""
    found = (directory / name for name in (BEST, LAST))
    return next((path for path in found if path.is_file()), None)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes next to the target, syncs and renames: after a kill, the file is either the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt`: the weights with the best `monitor` so far, updated after every validation."""

    def __init__(self, dirpath: str, monitor: str, mode: str = "min", filename: str = "best", **kwargs: Any) -> None:
        kwargs.setdefault("save_top_k", 1)
        super().__init__(
            dirpath=dirpath,
            monitor=monitor,
            mode=mode,
            filename=filename,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
            **kwargs,
        )


class PeriodicCheckpoint(Checkpoint):
    """`step-N.ckpt` every n optimizer steps; only the newest and multiples of `keep_multiple` are kept.

    Args:
        dirpath: the run's checkpoint directory.
        every_n_train_steps: the interval in optimizer steps.
        keep_multiple: checkpoints at multiples of this step are never removed; None keeps only the newest.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int = 500, keep_multiple: int | None = None) -> None:
        self.dirpath = Path(dirpath)
        self.every_n_train_steps = every_n_train_steps
        self.keep_multiple = keep_multiple
        self._last_step = 0

    def path(self, step: int) -> Path:
        return self.dirpath / f"step-{step}.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._last_step or step % self.every_n_train_steps:
            return
        self._last_step = step
        trainer.save_checkpoint(self.path(step))
        if trainer.is_global_zero:
            self.thin(step)

    def thin(self, newest: int) -> None:
        """Remove the periodic checkpoints older than `newest`, except multiples of `keep_multiple`."""
        for file in self.dirpath.glob("step-*.ckpt"):
            number = file.stem.removeprefix("step-")
            if not number.isdigit() or int(number) >= newest:
                continue
            if self.keep_multiple and int(number) % self.keep_multiple == 0:
                continue
            file.unlink(missing_ok=True)


class LastCheckpoint(Checkpoint):
    """`last.ckpt` when training ends, is interrupted or fails, so that the same command continues from there.

    A first Ctrl-C or SIGTERM lets the step in progress finish, saves, and ends the run with `TrainingInterrupted`.
    With `keep` off (debugging runs) nothing is saved, but a signal still ends the run in order.
    """

    def __init__(self, dirpath: str, signals: GracefulSignals | None = None, keep: bool = True) -> None:
        self.path = Path(dirpath) / LAST
        self.agreed = None if signals is None else AgreedSignal(signals)
        self.keep = keep

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.agreed is not None:
            self.agreed.signals.hold()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.agreed is not None:
            self._stop_for(self.agreed.after_step(), trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.agreed is not None and not trainer.sanity_checking:
            self._stop_for(self.agreed.during_validation(), trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.keep:
            trainer.save_checkpoint(self.path)

    def _stop_for(self, signum: int | None, trainer: Trainer) -> None:
        if signum is None:
            return
        if self.keep:
            trainer.save_checkpoint(self.path)
        raise TrainingInterrupted(signum, self.path if self.keep else None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Saved already, not worth saving, or now owned by another run.
        if isinstance(exception, TrainingInterrupted | NonFiniteLossError | RunInUseError):
            return
        if not isinstance(exception, Exception):
            return  # a second Ctrl-C, perhaps during an update
        if (
            not self.keep or trainer.global_step == 0 or trainer.world_size > 1
        ):  # other ranks may hang if one has failed
            return
        trainer.save_checkpoint(self.path)
        log.warning(f"Training failed at step {trainer.global_step}; {self.path} holds the state before that.")


def without_checkpoints(callbacks: list[Callback]) -> list[Callback]:
    """The callbacks without those that write checkpoints, for debugging runs."""
    return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]

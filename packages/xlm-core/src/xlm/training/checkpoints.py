"""The checkpoints that a run keeps: the best, the newest of every n steps, and the last one before it stopped."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.tensor import DTensor

from xlm.errors import NonFiniteLossError, RunInUseError, StorageError, TrainingInterrupted, XLMError
from xlm.training.background import WaitsForSaves, finish_saving
from xlm.training.disk_space import require_space, state_bytes
from xlm.training.guards import GracefulSignals
from xlm.training.rng import CHECKPOINT_KEY as RNG_KEY
from xlm.training.sharded_checkpoints import ADVICE, is_checkpoint, is_sharded, read_shards, remove_checkpoint
from xlm.training.stopping import AgreedSignal
from xlm.utils.files import sync_folder, temporary_beside, writing
from xlm.utils.rank_zero import RankedLogger
from xlm.utils.run_lock import Holder, find_holder

log = RankedLogger(__name__, rank_zero_only=True)

LAST = "last.ckpt"
BEST = "best.ckpt"


def best_or_last(directory: Path) -> Path | None:
    """The best checkpoint in a folder, otherwise the newest; None if there is none."""
    found = (directory / name for name in (BEST, LAST))
    return next((path for path in found if is_checkpoint(path)), None)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes next to the target, syncs, verifies and renames: a file with its final name is always complete.

    Raises:
        StorageError: there is not enough space, or the disk cannot be written; the older checkpoints are unchanged.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        with writing(target, ADVICE):
            target.parent.mkdir(parents=True, exist_ok=True)
            require_space(target, state_bytes(checkpoint))
            self._write(checkpoint, target)

    def _write(self, checkpoint: dict[str, Any], target: Path) -> None:
        temporary = temporary_beside(target)
        try:
            with temporary.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # torch hides the error of the disk behind one about its own position
                    raise _of_the_disk(error) from error
                file.flush()
                os.fsync(file.fileno())
                num_bytes = file.tell()
            _verify(temporary, num_bytes)
            if is_sharded(target):  # a folder, which a file cannot replace
                remove_checkpoint(target)
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if is_sharded(path):
            return read_shards(path)
        return super().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: Any) -> None:
        remove_checkpoint(Path(path))


def _of_the_disk(error: BaseException) -> BaseException:
    """The OSError that caused an error, else the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _verify(path: Path, num_bytes: int) -> None:
    """OSError if a new checkpoint has another size on the disk, or the directory at its end cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.infolist()
        complete = path.stat().st_size == num_bytes
    except zipfile.BadZipFile:
        complete = False
    if not complete:
        raise OSError(errno.EIO, "the file on the disk is incomplete")


_PATHS_OF_BEST = ("best_model_path", "kth_best_model_path", "last_model_path")


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt`: the weights with the best `monitor` so far, updated after every validation.

    Of equal values the later one counts, since it has trained longer: a share of few answers is often the same.
    """

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

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a value is among the best, or equal to the last of these. The same in all processes."""
        if super().check_monitor_top_k(trainer, current):
            return True
        worst = self.best_k_models.get(self.kth_best_model_path)
        is_equal = current is not None and worst is not None and bool(current == worst)
        return bool(trainer.strategy.reduce_boolean_decision(is_equal))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state. If the run was renamed, its paths are those of the new folder, so that the best one counts."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        best = str(state_dict.get("best_model_path") or "")
        if best and Path(best).parent != here and is_checkpoint(here / Path(best).name):
            paths = {key: moved(str(state_dict.get(key) or "")) for key in _PATHS_OF_BEST}
            scores = {moved(path): score for path, score in state_dict.get("best_k_models", {}).items()}
            state_dict = {**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)


class PeriodicCheckpoint(Checkpoint):
    """`step-N.ckpt` every n optimizer steps; only the newest and multiples of `keep_multiple` are kept.

    Args:
        dirpath: the run's checkpoint directory.
        every_n_train_steps: the interval in optimizer steps.
        keep_multiple: checkpoints at multiples of this step are never removed; None keeps only the newest.
        num_newest: how many of the newest are kept; with 2, a run can continue if the newest one is damaged later.
    """

    def __init__(
        self,
        dirpath: str,
        every_n_train_steps: int = 500,
        keep_multiple: int | None = None,
        num_newest: Annotated[int, Ge(1)] = 1,
    ) -> None:
        self.dirpath = Path(dirpath)
        self.every_n_train_steps = every_n_train_steps
        self.keep_multiple = keep_multiple
        self.num_newest = num_newest
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
            # By way of the plugin, which removes nothing before the new checkpoint is complete.
            self.thin(step, trainer.strategy.checkpoint_io.remove_checkpoint)

    def thin(self, newest: int, remove: Callable[[Path], None] | None = None) -> None:
        """Remove the periodic checkpoints up to `newest`, except the newest ones and multiples of `keep_multiple`.

        Later ones, which a run that continues from an earlier step has not reached again, stay.
        """
        remove = remove or AtomicCheckpointIO().remove_checkpoint
        names = ((path, path.stem.removeprefix("step-")) for path in self.dirpath.glob("step-*.ckpt"))
        steps = {int(number): path for path, number in names if number.isdigit() and int(number) <= newest}
        steps.setdefault(newest, self.path(newest))  # a thread may still be writing it
        for step in sorted(steps, reverse=True)[self.num_newest :]:
            if not self.keep_multiple or step % self.keep_multiple:
                remove(steps[step])


class LastCheckpoint(Checkpoint):
    """`last.ckpt` when training ends, is interrupted or fails, so that the same command continues from there.

    A first Ctrl-C, SIGTERM, closed terminal or closed pipe lets the step in progress finish, saves, and ends the run
    with `TrainingInterrupted`.
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
            finish_saving(trainer)

    def save_alone(self, trainer: Trainer, first: Holder) -> Path | None:
        """Save the state of this process after another one was lost; returns the path if it was saved.

        Not if weights are split over the processes or are not finite, nor if the run's folder is not locked by its rank
        0 (`first`) any more: then rank 0 ended in order, or a new run has started.
        """
        is_sharded_run = any(isinstance(p, DTensor) for p in trainer.lightning_module.parameters())
        if not self.keep or trainer.global_step == 0 or is_sharded_run:
            return None
        if not all(bool(torch.isfinite(p).all()) for p in trainer.lightning_module.parameters()):
            return None
        holder = find_holder(Path(trainer.default_root_dir))
        if holder is None or (holder[0].host, holder[0].pid) != (first.host, first.pid):
            return None
        plugin = trainer.strategy.checkpoint_io
        if isinstance(plugin, WaitsForSaves):
            plugin.wait()
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        known = checkpoint.get(RNG_KEY, [None])
        checkpoint[RNG_KEY] = [known[0] if r == trainer.global_rank else None for r in range(trainer.world_size)]
        AtomicCheckpointIO().save_checkpoint(checkpoint, self.path)
        return self.path

    def _stop_for(self, signum: int | None, trainer: Trainer) -> None:
        if signum is None:
            return
        if self.keep:
            trainer.save_checkpoint(self.path)
            finish_saving(trainer)
        raise TrainingInterrupted(signum, self.path if self.keep else None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Saved already, not worth saving, not possible, or now owned by another run.
        if isinstance(exception, TrainingInterrupted | NonFiniteLossError | StorageError | RunInUseError):
            return
        if not isinstance(exception, Exception):
            return  # a second Ctrl-C, perhaps during an update
        if trainer.state.fn is not TrainerFn.FITTING:
            return  # a test: the run is saved, and the weights may be its best ones
        if (
            not self.keep or trainer.global_step == 0 or trainer.world_size > 1
        ):  # other ranks may hang if one has failed
            return
        try:
            trainer.save_checkpoint(self.path)
            finish_saving(trainer)
        except (XLMError, OSError) as error:
            log.warning(f"Training failed at step {trainer.global_step}, and its state cannot be saved: {error}")
            return
        log.warning(f"Training failed at step {trainer.global_step}; {self.path} holds the state before that.")


def without_checkpoints(callbacks: list[Callback]) -> list[Callback]:
    """The callbacks without those that write checkpoints, for debugging runs."""
    return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]

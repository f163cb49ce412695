"""Random state: saved with checkpoints, restored at the first batch, and isolated from validation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xlm.utils.rank_zero import all_gather_objects

CHECKPOINT_KEY = "xlm_rng"


def capture() -> dict[str, Any]:
    """The state of Python's, NumPy's, torch's and each CUDA device's global generator, as plain values."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Restore every global generator to a state returned by `capture`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def reseed(seed: int) -> None:
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def random_state_of(seed: int) -> Iterator[None]:
    """Seed the global generators for a block, and restore their states afterwards."""
    before = capture()
    reseed(seed)
    try:
        yield
    finally:
        restore(before)


class RandomState(Callback):
    """Gives a resumed run the same random draws as an uninterrupted one.

    The state is restored at the first training batch, not when the checkpoint is read: creating a loader's iterator
    draws from torch's generator too. Validation and test start from `seed` and restore the training state afterwards,
    so the frequency of validation does not change training, and two validations differ only by the weights.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._pending: dict[str, Any] | None = None
        self._outer: dict[str, Any] | None = None
        self._step = -1
        # With accumulated gradients, the state at the start of the step in progress.
        self._at_step: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Every rank has its own state. The batches of an unfinished step are repeated.
        started = self._at_step if trainer.global_step == self._step else None
        checkpoint[CHECKPOINT_KEY] = all_gather_objects(started or self._outer or capture())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get(CHECKPOINT_KEY, [])
        # A checkpoint that one process saved after another one died has no state of the others.
        if trainer.global_rank < len(states) and states[trainer.global_rank] is not None:
            self._pending = states[trainer.global_rank]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._pending is not None:
            restore(self._pending)
            self._pending = None
        if trainer.accumulate_grad_batches > 1 and trainer.global_step != self._step:
            self._step, self._at_step = trainer.global_step, capture()

    def _isolate(self) -> None:
        self._outer = capture()
        reseed(self.seed)

    def _release(self) -> None:
        if self._outer is not None:
            restore(self._outer)
            self._outer = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._isolate()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._isolate()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()

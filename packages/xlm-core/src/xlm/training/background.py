"""Checkpoints written by a thread while training continues: the state is copied first, so no step can change it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO


class Snapshot:
    """Copies nested states into memory of the CPU, which the next copy uses again.

    Tensors that share a storage, such as tied weights, share it in the copy too.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, list[torch.UntypedStorage]] = {}

    def of(self, state: Any) -> Any:
        """A copy of all tensors, dicts, lists and tuples; it is valid until the next call."""
        free = {num_bytes: list(found) for num_bytes, found in self._buffers.items()}
        copies: dict[tuple[str, int], torch.UntypedStorage] = {}
        self._buffers = {}
        return self._copy(state, free, copies)

    def _copy(self, state: Any, free: dict[int, list[torch.UntypedStorage]], copies: dict[Any, Any]) -> Any:
        if isinstance(state, torch.Tensor):
            return self._copy_tensor(state.detach(), free, copies)
        if isinstance(state, dict):
            new = copy.copy(state)  # keeps the class, and the metadata of a state dict
            for key, value in state.items():
                new[key] = self._copy(value, free, copies)
            return new
        if isinstance(state, list | tuple) and type(state) in (list, tuple):
            return type(state)(self._copy(value, free, copies) for value in state)
        return state

    def _copy_tensor(
        self, tensor: torch.Tensor, free: dict[int, list[torch.UntypedStorage]], copies: dict[Any, Any]
    ) -> torch.Tensor:
        if tensor.layout != torch.strided or type(tensor) is not torch.Tensor:
            return tensor.to("cpu", copy=True)
        storage = tensor.untyped_storage()
        place = (str(tensor.device), storage.data_ptr())
        if place not in copies:
            found = free.get(storage.nbytes())
            copies[place] = found.pop() if found else torch.UntypedStorage(storage.nbytes())
            copies[place].copy_(storage)
            self._buffers.setdefault(storage.nbytes(), []).append(copies[place])
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(copies[place], tensor.storage_offset(), tensor.size(), tensor.stride())


@runtime_checkable
class WaitsForSaves(Protocol):
    """A plugin whose saves may not be complete when they return."""

    def wait(self) -> None: ...


class BackgroundCheckpointIO(_WrappingCheckpointIO):
    """Saves and removes checkpoints in one thread, in order: an old one is removed only after the new one is complete.

    A save waits until the one before is finished, so there is at most one copy of the state. An error of the thread is
    raised by the next call, and nothing is removed after it.

    Args:
        checkpoint_io: writes the files.
    """

    def __init__(self, checkpoint_io: CheckpointIO) -> None:
        super().__init__(checkpoint_io)
        self._snapshot = Snapshot()
        self._thread: ThreadPoolExecutor | None = None
        self._running: list[Future[None]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.wait()
        assert self.checkpoint_io is not None
        self._submit(self.checkpoint_io.save_checkpoint, self._snapshot.of(checkpoint), path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        assert self.checkpoint_io is not None
        if self._running:
            self._submit(self.checkpoint_io.remove_checkpoint, path)
        else:
            self.checkpoint_io.remove_checkpoint(path)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.wait()
        loaded: dict[str, Any] = super().load_checkpoint(*args, **kwargs)
        return loaded

    def _submit(self, work: Callable[..., None], *args: Any) -> None:
        before = list(self._running)

        def in_order() -> None:
            if all(earlier.exception() is None for earlier in before):  # one thread: the earlier ones have ended
                work(*args)

        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._running.append(self._thread.submit(in_order))

    def check(self) -> None:
        """Raise the error of a save that has failed meanwhile."""
        if any(future.done() and future.exception() is not None for future in self._running):
            self.wait()

    def wait(self) -> None:
        """Return when all files are complete; raise the first error."""
        running, self._running = self._running, []
        errors = [error for future in running if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def teardown(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self._snapshot = Snapshot()
        self.wait()


def finish_saving(trainer: Trainer) -> None:
    """Wait on all processes until the checkpoints so far are complete."""
    plugin = trainer.strategy.checkpoint_io
    if isinstance(plugin, WaitsForSaves):
        plugin.wait()
        trainer.strategy.barrier("finish_saving")

"""Disk space for checkpoints: checked before training, by an estimate, and exactly before each save."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xlm.errors import StorageError


def state_bytes(state: Any) -> int:
    """The bytes of all tensors in nested dicts, lists and tuples; a storage that several of them share counts once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in _tensors(state)}
    return sum(storage.nbytes() for storage in storages.values())


def file_bytes(num_bytes: int) -> int:
    """About the size of a checkpoint with tensors of that size; it also has names, positions and the configuration."""
    return num_bytes + num_bytes // 100 + 2**17


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def free_bytes(folder: Path) -> int | None:
    """The free space for this user where `folder` is or will be; None if the system doesn't know."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None  # some network file systems report no sizes


def require_space(target: Path, num_bytes: int) -> None:
    """OSError if a file of that size does not fit beside `target`; its text has both sizes."""
    free, num_bytes = free_bytes(target.parent), file_bytes(num_bytes)
    if free is not None and free < num_bytes:
        raise OSError(
            errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({size(num_bytes)} are needed, {size(free)} are free)"
        )


def check_space(folder: Path, model: nn.Module, num_kept: int, has_average: bool) -> str | None:
    """A warning if the checkpoints of a run that is about to start do not fit into `folder`; None if they do.

    The newest checkpoint in the folder has the size of one. Without one, it is estimated: the weights, their average,
    and two values per trainable weight for the optimizer. Files that are there already are replaced in time, so they
    count as free space. One more file is written before an old one is removed.

    Raises:
        StorageError: not even one checkpoint without the state of the optimizer fits.
    """
    free = free_bytes(folder)
    if free is None:
        return None
    weights = state_bytes(dict(model.state_dict()))
    trainable = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    least = file_bytes(weights + (trainable if has_average else 0))
    if free < least:
        raise StorageError(
            f"{folder} has {size(free)} of free space, but one checkpoint needs at least {size(least)}. "
            "Free some space, or set checkpointing_dir to a folder on another disk.",
            path=folder,
        )
    there = [_bytes_of(path) for path in folder.glob("*.ckpt")] if folder.is_dir() else []
    one = max(there, default=0) or least + 2 * trainable
    needed = one * (num_kept + 1) - sum(there)
    if free >= needed:
        return None
    return (
        f"{folder} has {size(free)} of free space, but the checkpoints of this run need about {size(needed)}: "
        f"{num_kept} of {size(one)}, and space to write the next one. Training ends if the disk is full."
    )


def _bytes_of(path: Path) -> int:
    """The size of a file, or of all files in a folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:  # removed meanwhile
        return 0


def size(num_bytes: int) -> str:
    """`1.5 GiB` or `12.3 MiB`."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"

"""Weights in and out of a harness: checkpoint or safetensors, averaged or raw, with readable mismatches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xlm.errors import CheckpointError, CheckpointMismatchError
from xlm.training.ema import averaged_state_dict
from xlm.training.resume import load_checkpoint
from xlm.utils.rank_zero import RankedLogger

log = RankedLogger(__name__, rank_zero_only=True)


def read_state_dict(path: str | Path, apply_ema: bool = True) -> dict[str, torch.Tensor]:
    """State dict of a `.ckpt` (of the harness) or `.safetensors` (of the model, keys prefixed with `model.`).

    Args:
        path: the file.
        apply_ema: take the averaged weights where the checkpoint has them.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise CheckpointError(f"There are no weights at {path}.")
        return {f"model.{name}": tensor for name, tensor in load_file(path).items()}
    return select_weights(load_checkpoint(path), apply_ema)


def select_weights(checkpoint: dict[str, Any], apply_ema: bool) -> dict[str, torch.Tensor]:
    """The averaged weights of a checkpoint if asked for and there, else the raw ones."""
    averaged = averaged_state_dict(checkpoint) if apply_ema else None
    return averaged if averaged is not None else dict(checkpoint["state_dict"])


def check_fits(module: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Raise `CheckpointMismatchError` naming the keys and shapes by which a state dict differs from a module."""
    own = module.state_dict()
    missing = sorted(own.keys() - state_dict.keys())
    unexpected = sorted(state_dict.keys() - own.keys())
    shapes = {
        name: (tuple(state_dict[name].shape), tuple(own[name].shape))
        for name in sorted(own.keys() & state_dict.keys())
        if state_dict[name].shape != own[name].shape
    }
    if missing or unexpected or shapes:
        raise CheckpointMismatchError(source, missing=missing, unexpected=unexpected, shapes=shapes)


def load_weights(module: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Put a state dict that fits into a module; nothing is changed if it doesn't."""
    check_fits(module, state_dict, source)
    module.load_state_dict(state_dict)


def save_weights(model: nn.Module, path: str | Path, overwrite: bool = False) -> Path:
    """Write a model's weights as safetensors.

    Raises:
        CheckpointError: if the file exists and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} already exists. Nothing was written.")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(path)
    return path

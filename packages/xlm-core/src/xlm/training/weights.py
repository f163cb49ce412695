"""Weights in and out of a harness: checkpoint or safetensors, averaged or raw, with readable mismatches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_model
from torch import nn

from xlm.errors import CheckpointError, CheckpointMismatchError
from xlm.model import load_safetensors
from xlm.training.ema import averaged_state_dict
from xlm.training.resume import load_checkpoint
from xlm.utils.rank_zero import RankedLogger
from xlm.utils.weight_files import is_weights_alone, without_wrappers

log = RankedLogger(__name__, rank_zero_only=True)


def load_from(harness: LightningModule, path: str | Path, apply_ema: bool = True) -> None:
    """Load a `.ckpt` of the harness, or safetensors (one file, or an index of shards) of its model alone.

    Args:
        harness: what is loaded into; its `model` for safetensors.
        path: the file.
        apply_ema: take the averaged weights where the checkpoint has them.
    """
    if is_weights_alone(path):
        model = harness.model
        assert isinstance(model, nn.Module)
        load_safetensors(model, path)
    else:
        load_weights(harness, select_weights(load_checkpoint(path), apply_ema), path)


def select_weights(checkpoint: dict[str, Any], apply_ema: bool) -> dict[str, torch.Tensor]:
    """The averaged weights of a checkpoint if asked for and there, else the raw ones."""
    averaged = averaged_state_dict(checkpoint) if apply_ema else None
    return averaged if averaged is not None else dict(checkpoint["state_dict"])


def check_fits(module: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Raise `CheckpointMismatchError` naming the keys and shapes by which a state dict differs from a module."""
    own = module.state_dict()
    missing = sorted(name for name in own.keys() - state_dict.keys() if not _is_derived(name))
    unexpected = sorted(name for name in state_dict.keys() - own.keys() if not _is_derived(name))
    shapes = {
        name: (tuple(state_dict[name].shape), tuple(own[name].shape))
        for name in sorted(own.keys() & state_dict.keys())
        if state_dict[name].shape != own[name].shape
    }
    if missing or unexpected or shapes:
        raise CheckpointMismatchError(source, missing=missing, unexpected=unexpected, shapes=shapes)


def _is_derived(name: str) -> bool:
    """Rotary frequencies follow from the sizes; where a published checkpoint keeps them doesn't matter."""
    return name.endswith("rotary_emb.inv_freq")


def load_weights(module: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Put a state dict that fits, but for names of wrappers, into a module; nothing is changed if it doesn't."""
    state_dict = without_wrappers(state_dict, module.state_dict(), source)
    check_fits(module, state_dict, source)
    module.load_state_dict(state_dict, strict=False)


def save_weights(model: nn.Module, path: str | Path, overwrite: bool = False) -> Path:
    """Write a model's weights as safetensors.

    Raises:
        CheckpointError: if the file exists and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} already exists. Nothing was written.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_model(model, str(temporary), metadata={"format": "pt"})  # tied weights are written once
    temporary.replace(path)
    return path

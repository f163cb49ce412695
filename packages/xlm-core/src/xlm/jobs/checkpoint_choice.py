"""Which weights a job other than training uses, and putting them into a harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xlm.errors import CheckpointError
from xlm.harness import Harness
from xlm.training.checkpoints import best_or_last
from xlm.training.weights import load_from

PATH_KEYS = ("checkpoint_path", "ckpt_path")


def chosen_checkpoint(cfg: DictConfig, section: str) -> Path:
    """`<section>.checkpoint_path` (or `.ckpt_path`), else the run's best checkpoint, else its last.

    Raises:
        CheckpointError: nothing was named and the run's folder has none.
    """
    options: Any = cfg.get(section) or {}
    for key in PATH_KEYS:
        if options.get(key):
            return Path(options[key])
    directory = Path(cfg.checkpointing_dir)
    if (path := best_or_last(directory)) is not None:
        return path
    raise CheckpointError(
        f"There is no checkpoint in {directory}.\nTrain first under this job_name, or give {section}.checkpoint_path=…"
    )


def load_chosen(cfg: DictConfig, harness: Harness, section: str) -> Path:
    """Load the chosen weights, averaged ones unless `<section>.apply_ema=false`; returns where they came from."""
    path = chosen_checkpoint(cfg, section)
    apply_ema = bool((cfg.get(section) or {}).get("apply_ema", True))
    load_from(harness, path, apply_ema)
    return path

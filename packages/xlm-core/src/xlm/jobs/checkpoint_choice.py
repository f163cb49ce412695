"""Which weights a job other than training uses, and putting them into a harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xlm.errors import CheckpointError, of_option
from xlm.harness import Harness
from xlm.jobs.naming_a_checkpoint import PATH_KEYS
from xlm.jobs.sources import Weights, find_weights
from xlm.training.checkpoints import best_or_last
from xlm.training.weights import load_from, load_weights, select_weights


def chosen_weights(cfg: DictConfig, section: str) -> Weights:
    """What `<section>.checkpoint_path` (or `.ckpt_path`) means, else the run's best checkpoint, else its last.

    A file, the folder of a run or of an exported model, or an id of the hub (at `<section>.revision`).

    Raises:
        CheckpointError: what was named isn't there, or nothing was named and the run's folder has none.
    """
    options: Any = cfg.get(section) or {}
    for key in PATH_KEYS:
        if options.get(key):
            with of_option(f"{section}.{key}"):
                return find_weights(str(options[key]), options.get("revision"))
    directory = Path(cfg.checkpointing_dir)
    if (path := best_or_last(directory)) is not None:
        return find_weights(path)
    log_dir = Path(cfg.paths.log_dir)
    trained = sorted(run.name for run in log_dir.glob("*") if best_or_last(run / "checkpoints"))
    there = f" Runs that have one: {', '.join(trained)}." if trained else ""
    raise CheckpointError(
        f"There is no checkpoint in {directory}.{there}\n"
        f"Train first under this job_name, or give {section}.checkpoint_path=…"
    )


def load_chosen(harness: Harness, weights: Weights, apply_ema: bool) -> Path:
    """Load the chosen weights, averaged ones if asked for and there; returns where they came from."""
    if weights.checkpoint is None:
        load_from(harness, weights.path)
    else:
        load_weights(harness, select_weights(weights.checkpoint, apply_ema), weights.path)
    weights.release()
    return weights.path

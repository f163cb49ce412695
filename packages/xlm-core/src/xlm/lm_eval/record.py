"""What the numbers of lm-evaluation-harness are and depend on, for its results."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from xlm.lm_eval.scoring import Scorer
from xlm.trained import TrainedModel
from xlm.utils.run_record import config_hash, device_name, versions


def about(
    lm: TrainedModel, scorer: Scorer | None, num_truncated: int, errors: Sequence[float], sampler: dict[str, Any]
) -> dict[str, Any]:
    """Model, likelihood and versions as JSON.

    Args:
        scorer: None where nothing was scored.
        num_truncated: requests whose context lost its beginning.
        errors: standard errors of what was scored, over the draws of a bound.
        sampler: options that were given.
    """
    return {
        "checkpoint": str(lm.source),
        "checkpoint_sha256": file_hash(lm.source),
        "config_hash": config_hash(OmegaConf.to_yaml(lm.config, resolve=False)),
        "family": str(lm.config.get("model_name")),
        "num_parameters": sum(parameter.numel() for parameter in lm.model.parameters()),
        "device": device_name(lm.device.type),
        "likelihood": None if scorer is None else _likelihood(scorer, errors),
        "num_truncated": num_truncated,
        "sampler": sampler,
        "versions": {**versions(), "lm-eval": metadata.version("lm-eval")},
    }


def _likelihood(scorer: Scorer, errors: Sequence[float]) -> dict[str, Any]:
    known = [error for error in errors if not math.isnan(error)]
    return {
        "kind": "exact" if scorer.is_exact else "lower bound on the log-likelihood",
        "of": scorer.of,
        "scored": "a continuation of a text" if scorer.role == "lm" else "an answer and its end",
        "num_samples": None if scorer.is_exact else scorer.num_samples,
        "seed": scorer.seed,
        "precision": scorer.precision,
        "mean_standard_error": sum(known) / len(known) if known else None,
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file of weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A run's default name, from the choices that made its configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf


def default_job_name(choices: Mapping[str, Any], overrides: Sequence[str] = (), suffix: str = "") -> str:
    """The experiments joined by `+`, or dataset and model; a model chosen beside an experiment is added.

    `choices` are Hydra's (group → member), `overrides` what the command line said, `suffix` tells
    the runs of a sweep apart.
    """
    chosen_here = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    # Hydra records a list of experiments only among the overrides.
    experiments = _members(choices.get("experiment") or chosen_here.get("experiment"))
    parts = experiments or _members(choices.get("datamodule"))
    model, model_type = choices.get("model"), choices.get("model_type")
    if model and (not experiments or "model" in chosen_here):
        parts.append(str(model))
    if model_type and not any(
        re.search(rf"(^|[_+]){re.escape(str(model_type))}($|[_+])", part) for part in parts
    ):
        parts.append(str(model_type))
    name = "+".join(dict.fromkeys(parts)) or "run"
    return _as_folder_name(f"{name}_{suffix}" if suffix else name)


def name_from_hydra(hydra: DictConfig) -> str:
    """The default name for a composed `hydra` node; in a sweep each job's name carries its number."""
    choices = OmegaConf.to_container(hydra.runtime.choices, resolve=False)
    overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(choices, dict) and isinstance(overrides, list)
    number = OmegaConf.select(hydra, "job.num", throw_on_missing=False) if _is_sweep(hydra) else None
    named = {str(key): value for key, value in choices.items()}
    return default_job_name(named, [str(text) for text in overrides], "" if number is None else str(number))


def _is_sweep(hydra: DictConfig) -> bool:
    return str(getattr(hydra.mode, "name", hydra.mode)) == "MULTIRUN"


def _members(choice: Any) -> list[str]:
    """The members of a group's choice, a name or a list as the command line writes it: `[a,b]`."""
    if choice is None or choice == "null":
        return []
    return [member.strip().strip("'\"") for member in str(choice).strip("[]").split(",") if member.strip()]


def _as_folder_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+=,\-]+", "-", name)

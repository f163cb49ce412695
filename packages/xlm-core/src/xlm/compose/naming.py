"""A run's default name, from the choices that made its configuration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_LENGTH = 150
# What these choose is in the name anyway, or says where the run's folder is.
_NAMED_ANYWAY = ("experiment", "datamodule", "model", "model_type", "job_type", "debug")


def default_job_name(choices: Mapping[str, Any], overrides: Sequence[str] = (), is_sweep: bool = False) -> str:
    """The experiments joined by `+`, else the dataset; then a network and a model type that these don't name.

    `choices` are Hydra's (group → member), `overrides` what the command line said. The runs of a sweep
    carry their overrides, so that no two of them, nor of different sweeps, share a folder.
    """
    said = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    # Hydra records a list of experiments only among the overrides.
    parts = _members(choices.get("experiment") or said.get("experiment"))
    has_experiment = bool(parts)
    for group in ("datamodule", "model"):
        if choices.get(group) and (not has_experiment or group in said):
            parts.append(str(choices[group]))
    model_type = choices.get("model_type")
    if model_type and not any(_has_word(part, str(model_type)) for part in parts):
        parts.append(str(model_type))
    if is_sweep:
        parts = ["+".join(dict.fromkeys(parts))]
        parts += [text for text in overrides if text.partition("=")[0].lstrip("+") not in _NAMED_ANYWAY]
        return _as_folder_name(",".join(parts))
    return _as_folder_name("+".join(dict.fromkeys(parts)) or "run")


def name_from_hydra(hydra: Any) -> str:
    """The default name for a composed `hydra` node."""
    choices = {str(group): member for group, member in hydra.runtime.choices.items()}
    return default_job_name(choices, [str(text) for text in hydra.overrides.task], _is_sweep(hydra))


def _is_sweep(hydra: Any) -> bool:
    return str(getattr(hydra.mode, "name", hydra.mode)) == "MULTIRUN"


def _has_word(part: str, word: str) -> bool:
    return re.search(rf"(^|[_+]){re.escape(word)}($|[_+])", part) is not None


def _members(choice: Any) -> list[str]:
    """The members of a group's choice, a name or a list as the command line writes it: `[a,b]`."""
    if choice is None or choice == "null":
        return []
    return [member.strip().strip("'\"") for member in str(choice).strip("[]").split(",") if member.strip()]


def _as_folder_name(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.+=,\-]+", "-", name)
    if len(name) <= MAX_LENGTH:
        return name
    return f"{name[: MAX_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

"""What a person chose for a run: the members of Hydra's groups, and the words of the command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# The groups that make a run, in the order in which they explain a difference.
GROUPS = ("experiment", "datamodule", "model_type", "model", "noise_schedule", "optimizer", "lr_scheduler")


def hydra_choices() -> dict[str, str]:
    """Group → member of the job that Hydra is running, for GROUPS; empty outside of such a job."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return {}
    choices = HydraConfig.get().runtime.choices
    return {group: str(choices[group]) for group in GROUPS if choices.get(group) is not None}


def choices_of(record: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """The choices in the record of a run; of an older record, only the family, from the run's configuration."""
    found = record.get("choices")
    recorded = {str(group): str(member) for group, member in found.items()} if isinstance(found, Mapping) else {}
    family = config.get("model_name")
    return {**({"model_type": family} if isinstance(family, str) else {}), **recorded}


def typed_keys(command: Iterable[Any]) -> list[str]:
    """The keys of the settings in the words of a command, without groups."""
    keys = [word.lstrip("+~").partition("=")[0] for word in command if isinstance(word, str) and "=" in word]
    return [key for key in keys if key not in GROUPS]


def chosen_first(keys: Iterable[str], typed: Sequence[str]) -> list[str]:
    """The keys in alphabetical order, with those that a command named, or a key above them, in front."""

    def place(key: str) -> tuple[bool, str]:
        return not any(key == name or key.startswith(f"{name}.") for name in typed), key

    return sorted(keys, key=place)

"""The optional section of a job: misspelt options are refused, and numbers larger than what exists are reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlm.errors import ConfigError, did_you_mean, nearest_names


def options_of(cfg: DictConfig, section: str, known: Sequence[str]) -> dict[str, Any]:
    """The options below `cfg.<section>` as plain values; ConfigError for one that is not in `known`."""
    node = cfg.get(section)
    options = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else {}
    found = {str(name): value for name, value in options.items()} if isinstance(options, dict) else {}
    for name in found:
        if name not in known:
            hint = did_you_mean([f"{section}.{near}" for near in nearest_names(name, known, 1)])
            there = ", ".join(f"{section}.{option}" for option in known)
            raise ConfigError(f"Unknown option '{section}.{name}'. Options: {there}. {hint}".rstrip(), key=name)
    return found


def fewer_than_asked(option: str, asked: int | None, found: int, of: str) -> str:
    """A sentence for a number of which there are fewer: `of` names them; empty where there are enough."""
    if asked is None or found >= asked:
        return ""
    return f"{option} is {asked:,}, and there are only {found:,} {of}; all of them are used."

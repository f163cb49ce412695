"""What the searched configuration folders hold: groups, members and keys, for messages and help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlm.errors import nearest_names
from xlm.external_models import active_config_dirs, active_models, core_config_dir


def config_folders() -> list[Path]:
    """Core's configs, then those of the active models and of the user's own folders."""
    return list(dict.fromkeys([core_config_dir(), *active_config_dirs()]))


def config_files() -> Iterator[Path]:
    """Every YAML file in them."""
    for folder in config_folders():
        yield from sorted(folder.rglob("*.yaml"))


def group_members(group: str) -> list[str]:
    """The files of `group` in all folders, sorted."""
    return sorted({path.stem for folder in config_folders() for path in (folder / group).glob("*.yaml") if group})


def group_names() -> list[str]:
    """The groups at the top of all folders, sorted."""
    return sorted({path.name for folder in config_folders() for path in folder.glob("[!_]*/")})


def searched_places() -> list[str]:
    """Whose folders were searched, in order."""
    models = active_models().values()
    own = [folder for folder in active_config_dirs() if folder not in {model.config_dir for model in models}]
    return ["xlm-core", *(model.provider for model in models), *map(str, own)]


def nearest_keys(key: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Where the dotted `key` leaves the configuration that `overrides` give, and the nearest full keys there.

    Without such a configuration (other mistakes in `overrides`) the groups' names are all there is.
    """
    composed = _compose_or_none(overrides)
    node: Any = OmegaConf.to_container(composed, resolve=False) if composed is not None else {}
    parts = key.split(".")
    for depth, part in enumerate(parts):
        prefix = ".".join(parts[:depth])
        known = [str(name) for name in node] if isinstance(node, dict) else []
        if depth == 0:
            known += group_names()
        if part not in known:
            dotted = [f"{prefix}.{name}" if prefix else name for name in nearest_names(part, dict.fromkeys(known))]
            return ".".join(parts[: depth + 1]), dotted
        node = node.get(part) if isinstance(node, dict) else None
    return key, []


def _compose_or_none(overrides: Sequence[str]) -> DictConfig | None:
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("xlm.configs.lightning_train", version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException):
        return None

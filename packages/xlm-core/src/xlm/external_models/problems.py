"""What is wrong with models that can be used all the same: configuration files that another place hides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xlm.external_models.activation import core_config_dir
from xlm.external_models.commands import FILE_NAME as COMMANDS_FILE
from xlm.external_models.package import ModelPackage


def hidden_configs(models: Mapping[str, ModelPackage]) -> dict[str, list[tuple[str, str]]]:
    """For each model, its (config file, owner of the file that Hydra takes instead): the first place wins."""
    owners = dict.fromkeys(_config_files(core_config_dir()), "xlm-core")
    hidden: dict[str, list[tuple[str, str]]] = {}
    folders: set[Path] = set()
    for model in models.values():
        if model.config_dir in folders:
            continue
        folders.add(model.config_dir)
        for path in sorted(_config_files(model.config_dir)):
            owner = owners.setdefault(path, f"model '{model.name}'")
            if owner != f"model '{model.name}'":
                hidden.setdefault(model.name, []).append((path, owner))
    return hidden


def _config_files(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}
    return {path for path in found if path != COMMANDS_FILE}

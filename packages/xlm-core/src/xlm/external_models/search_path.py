"""How Hydra finds and reads the configurations of models: a plugin of its search path, and a reader of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

OWN = "own configs"


class ModelsSearchPath(SearchPathPlugin):
    """Core first, then the models in the order in which they were found, then folders of the user's own."""

    folders: ClassVar[Mapping[Path, str]] = {}

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder, provider in self.folders.items():
            search_path.append(provider=provider, path=f"file://{folder}")


class ExperimentsAreGlobal(FileConfigSource):
    """Files, of which an experiment speaks of the whole configuration, also without `# @package _global_`."""

    def load_config(self, config_path: str) -> ConfigResult:
        loaded = super().load_config(config_path)
        if config_path.startswith("experiment/") and loaded.header.get("package") is None:
            loaded.header["package"] = "_global_"
        return loaded

"""Lets Hydra find and read the configurations of models: a search path plugin and a file reader."""

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
    """Searches core first, then the models in the order in which they were found, then the user's own folders."""

    folders: ClassVar[Mapping[Path, str]] = {}

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder, provider in self.folders.items():
            search_path.append(provider=provider, path=f"file://{folder}")


class ExperimentsAreGlobal(FileConfigSource):
    """Reads config files; experiments are global, even without `# @package _global_`."""

    def load_config(self, config_path: str) -> ConfigResult:
        loaded = super().load_config(config_path)
        if config_path.startswith("experiment/") and loaded.header.get("package") is None:
            loaded.header["package"] = "_global_"
        return loaded


# In a launcher's process Hydra registers its own reader after this one: it keeps this one only under the same name.
ExperimentsAreGlobal.__name__ = FileConfigSource.__name__

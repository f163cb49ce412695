"""The Hydra plugin that adds each active model's configs to the search path, under the model's own label."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from xlm.external_models.activation import active_models


class ModelsSearchPath(SearchPathPlugin):
    """Core first, then the models in the order in which they were found."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        seen = set()
        for model in active_models().values():
            if model.config_dir not in seen:
                seen.add(model.config_dir)
                search_path.append(provider=model.provider, path=f"file://{model.config_dir}")

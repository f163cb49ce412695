"""Makes discovered models usable: sys.path, Hydra's search path, and the documented names of datamodules."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from xlm.external_models.package import ModelPackage, config_dirs_of, core_config_dir

_active: dict[str, ModelPackage] = {}
_aliases: set[str] = set()
_added_paths: list[str] = []
_config_dirs: list[Path] = []


def active_models() -> dict[str, ModelPackage]:
    """The models that the last `activate` made usable."""
    return dict(_active)


def active_config_dirs() -> list[Path]:
    """The folders that Hydra searches after core: configurations of active models, then the user's own."""
    return list(_config_dirs)


def activate(
    models: Mapping[str, ModelPackage], extra_config_dirs: Iterable[Path] = (), folders: Iterable[Path] = ()
) -> None:
    """Make exactly these `models` usable by Python and Hydra in this process; a second call is harmless.

    Args:
        extra_config_dirs: further folders that Hydra will search (`--config-dir`).
        folders: the user's own (`Discovery.folders`); their modules can be imported and their `configs` are searched,
            unless a model or an installed package has the same name.
    """
    folders = list(folders)
    own = [path for folder in folders for path in config_dirs_of(folder)]
    _active.clear()
    _active.update(models)
    _config_dirs[:] = dict.fromkeys([*(model.config_dir for model in models.values()), *own])
    _extend_sys_path(models, folders)
    _register_with_hydra(models)
    _register_aliases(models, [*extra_config_dirs, *own])


def datamodule_aliases(models: Mapping[str, ModelPackage], config_dirs: Iterable[Path]) -> dict[str, str]:
    """`<dataset>_<model>` → `<dataset>` for core's datasets, if no folder has a file of that name."""
    folders = [folder / "datamodule" for folder in config_dirs]
    taken = {file.stem for folder in folders for file in folder.glob("*.y*ml")}
    datasets = sorted(file.stem for file in (core_config_dir() / "datamodule").glob("*.yaml"))
    names = {f"{dataset}_{model}": dataset for dataset in datasets if dataset != "default" for model in models}
    return {alias: dataset for alias, dataset in names.items() if alias not in taken}


def _extend_sys_path(models: Mapping[str, ModelPackage], folders: Iterable[Path]) -> None:
    """Replace the entries of an earlier activation with those of `models`, followed by `folders`."""
    sys.path[:] = [entry for entry in sys.path if entry not in _added_paths]
    _added_paths.clear()
    for root in (*(model.import_root for model in models.values()), *folders):
        # At the end, so that a model's neighbours never hide an installed library.
        if root and str(root) not in sys.path:
            sys.path.append(str(root))
            _added_paths.append(str(root))


def _register_with_hydra(models: Mapping[str, ModelPackage]) -> None:
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigSource

    from xlm.external_models.search_path import OWN, ExperimentsAreGlobal, ModelsSearchPath

    providers = {model.config_dir: model.provider for model in reversed(list(models.values()))}
    ModelsSearchPath.folders = {folder: providers.get(folder, OWN) for folder in _config_dirs}
    Plugins.instance().register(ModelsSearchPath)
    # Hydra keeps the first source of a scheme, so this one must replace it.
    sources: dict[str, type[ConfigSource]] = SourcesRegistry.instance().types
    sources[ExperimentsAreGlobal.scheme()] = ExperimentsAreGlobal


def _register_aliases(models: Mapping[str, ModelPackage], extra_config_dirs: Iterable[Path]) -> None:
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    group = store.repo.get("datamodule", {})
    for alias in _aliases:
        group.pop(f"{alias}.yaml", None)
    _aliases.clear()
    folders = [core_config_dir(), *extra_config_dirs, *(model.config_dir for model in models.values())]
    for alias, dataset in datamodule_aliases(models, folders).items():
        store.store(group="datamodule", name=alias, node={"defaults": [dataset]}, provider="xlm")
        _aliases.add(alias)

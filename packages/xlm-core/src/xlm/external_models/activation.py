"""Makes discovered models usable: sys.path, Hydra's search path, and the datamodule names that docs promise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from xlm.external_models.package import ModelPackage

_active: dict[str, ModelPackage] = {}
_aliases: set[str] = set()
_added_paths: list[str] = []


def core_config_dir() -> Path:
    """Core's own configs, the first place that Hydra searches."""
    return Path(__file__).resolve().parent.parent / "configs" / "lightning_train"


def active_models() -> dict[str, ModelPackage]:
    """The models that the last `activate` made usable."""
    return dict(_active)


def activate(models: Mapping[str, ModelPackage], extra_config_dirs: Iterable[Path] = ()) -> None:
    """Make exactly these `models` usable by Python and Hydra in this process; repeating it changes nothing.

    `extra_config_dirs` are further folders that Hydra will search (`--config-dir`).
    """
    _active.clear()
    _active.update(models)
    _extend_sys_path(models)
    _register_search_path()
    _register_aliases(models, extra_config_dirs)


def datamodule_aliases(models: Mapping[str, ModelPackage], config_dirs: Iterable[Path]) -> dict[str, str]:
    """`<dataset>_<model>` → `<dataset>` for core's datasets, where no folder has a file of that name."""
    folders = [folder / "datamodule" for folder in config_dirs]
    taken = {file.stem for folder in folders for file in folder.glob("*.y*ml")}
    datasets = sorted(file.stem for file in (core_config_dir() / "datamodule").glob("*.yaml"))
    names = {f"{dataset}_{model}": dataset for dataset in datasets if dataset != "default" for model in models}
    return {alias: dataset for alias, dataset in names.items() if alias not in taken}


def _extend_sys_path(models: Mapping[str, ModelPackage]) -> None:
    """Swap the entries of an earlier activation for those of `models`."""
    sys.path[:] = [entry for entry in sys.path if entry not in _added_paths]
    _added_paths.clear()
    for model in models.values():
        # At the end, so that a model's neighbours never hide an installed library.
        if model.import_root and str(model.import_root) not in sys.path:
            sys.path.append(str(model.import_root))
            _added_paths.append(str(model.import_root))


def _register_search_path() -> None:
    from hydra.core.plugins import Plugins

    from xlm.external_models.search_path import ModelsSearchPath

    Plugins.instance().register(ModelsSearchPath)


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

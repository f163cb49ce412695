"""Activation: sys.path, Hydra's search path with the models' own labels, and the promised datamodule names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore

from xlm.external_models import activate, active_models, core_config_dir
from xlm.external_models.activation import datamodule_aliases
from xlm.external_models.package import ModelPackage, read_directory

if TYPE_CHECKING:
    from ..conftest import WriteModel

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def models(tmp_path: Path, write_model: WriteModel) -> dict[str, ModelPackage]:
    flat = read_directory("toy_flat", write_model(tmp_path / "a" / "toy_flat", "toy_flat"), "one.json")
    nested = read_directory("toy_deep", write_model(tmp_path / "b", "toy_deep", "nested"), "two.json")
    return {"toy_flat": flat, "toy_deep": nested}


def providers() -> list[tuple[str | None, str | None]]:
    return [(entry.provider, entry.path) for entry in create_config_search_path(None).get_path()]


def test_both_layouts_can_be_imported(models: dict[str, ModelPackage]) -> None:
    activate(models)
    for name, model in models.items():
        module = importlib.import_module(f"{name}.parts")
        assert Path(str(module.__file__)).parent == model.package_dir


def test_twice_is_once(models: dict[str, ModelPackage]) -> None:
    activate(models)
    once = (list(sys.path), providers(), dict(ConfigStore.instance().repo.get("datamodule", {})))
    activate(models)
    assert (list(sys.path), providers(), dict(ConfigStore.instance().repo.get("datamodule", {}))) == once
    assert active_models() == models


def test_the_last_activation_counts(models: dict[str, ModelPackage]) -> None:
    before = list(sys.path)
    activate(models)
    activate({})
    assert sys.path == before
    assert active_models() == {}
    assert not [provider for provider, _ in providers() if provider and provider.startswith("model")]


def test_models_are_searched_after_core_under_their_own_labels(models: dict[str, ModelPackage]) -> None:
    activate(models)
    labels = [provider for provider, _ in providers()]
    assert labels[-3:-1] == ["model 'toy_flat' (one.json)", "model 'toy_deep' (two.json)"]


def test_aliases_exist_for_every_core_dataset_and_model_but_never_beside_a_file(
    models: dict[str, ModelPackage], tmp_path: Path
) -> None:
    folders = [core_config_dir(), *(model.config_dir for model in models.values())]
    aliases = datamodule_aliases(models, folders)
    datasets = {path.stem for path in (core_config_dir() / "datamodule").glob("*.yaml")} - {"default"}
    assert aliases == {f"{dataset}_{model}": dataset for dataset in datasets for model in models}
    (models["toy_flat"].config_dir / "datamodule" / "star_easy_toy_flat.yaml").write_text("a: 1\n")
    assert "star_easy_toy_flat" not in datamodule_aliases(models, folders)
    assert "star_easy_toy_deep" in datamodule_aliases(models, folders)

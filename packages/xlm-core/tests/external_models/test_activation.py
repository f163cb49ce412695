"""Activation: sys.path, Hydra's search path with labels of models, and the documented datamodule names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore

from xlm.compose import load_config
from xlm.external_models import activate, active_models, core_config_dir, discover
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


def test_modules_beside_a_list_of_models_and_in_the_working_directory_are_found_last(
    tmp_path: Path, write_model: WriteModel
) -> None:
    lists = tmp_path / "work" / "xlm-models"
    write_model(lists / "toy_flat", "toy_flat")
    (lists / "xlm_models.json").write_text('{"toy_flat": "toy_flat"}')
    (lists / "beside_the_list.py").write_text("x = 1\n")
    (tmp_path / "work" / "beside_me.py").write_text("x = 2\n")
    (tmp_path / "work" / "toy_flat").mkdir()  # another package in the working directory doesn't hide the model's
    (tmp_path / "work" / "json.py").write_text("raise RuntimeError\n")
    found = discover({}, tmp_path / "work")
    activate(found.models, folders=found.folders)
    assert found.folders == [lists, tmp_path / "work"]
    assert [importlib.import_module(name).x for name in ("beside_the_list", "beside_me")] == [1, 2]
    assert Path(str(importlib.import_module("toy_flat.parts").__file__)).is_relative_to(lists)
    assert discover({}, tmp_path / "work").errors == []  # a model that is active is not in conflict with itself


@pytest.fixture
def with_toy(work_dir: Path, write_model: WriteModel) -> Path:
    write_model(work_dir / "toy")
    (work_dir / "xlm_models.json").write_text('{"toy": "toy"}')
    return work_dir


@pytest.mark.parametrize("folder", ["configs", "configs/lightning_train"])
@pytest.mark.parametrize("header", ["", "# configs/experiment/mine.yaml\n", "# @package _global_\n"])
def test_an_experiment_of_the_working_directory(with_toy: Path, folder: str, header: str) -> None:
    file = with_toy / folder / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"{header}defaults:\n  - override /model: toy\n  - override /model_type: toy\nseed: 7\n")
    cfg = load_config(["experiment=mine"], check=False)
    assert (cfg.seed, cfg.model._target_) == (7, "toy.parts.Net")


def test_a_configuration_that_another_one_hides_is_told(with_toy: Path) -> None:
    file = with_toy / "configs" / "model" / "toy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("a: 1\n")
    (with_toy / "configs" / "config.yaml").write_text("a: 1\n")
    assert discover({}, with_toy).warnings == [
        f"{file} is not used: model 'toy' (xlm_models.json) has a configuration of that name. Rename it."
    ]

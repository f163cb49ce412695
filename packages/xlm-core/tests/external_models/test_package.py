"""Layouts and versions of model packages, read without importing them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.errors import ModelLayoutError
from xlm.external_models.package import read_directory, read_installed, read_version, search_root

if TYPE_CHECKING:
    from ..conftest import WriteModel


@pytest.mark.parametrize(
    ("layout", "package_dir", "config_dir", "import_root"),
    [
        ("flat", "toy", "toy/configs", "."),
        ("nested", "toy/toy", "toy/configs", "toy"),
        ("inner", "toy/toy", "toy/toy/configs", "toy"),
    ],
)
def test_layouts(
    tmp_path: Path, write_model: WriteModel, layout: str, package_dir: str, config_dir: str, import_root: str
) -> None:
    root = write_model(tmp_path / "toy", layout=layout)
    model = read_directory("toy", root, "xlm_models.json")
    assert model.package_dir == tmp_path / package_dir
    assert model.config_dir == tmp_path / config_dir
    assert model.import_root == (tmp_path / import_root).resolve()
    assert model.provider == "model 'toy' (xlm_models.json)"
    assert "toy" not in sys.modules


def test_the_package_may_be_called_otherwise(tmp_path: Path, write_model: WriteModel) -> None:
    root = write_model(tmp_path / "folder", layout="nested", package="toy_code")
    assert read_directory("toy", root, "x").import_name == "toy_code"


def test_configs_that_mirror_core_are_searched_from_there(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    assert search_root(tmp_path / "configs") == tmp_path / "configs"
    (tmp_path / "configs" / "lightning_train").mkdir()
    assert search_root(tmp_path / "configs") == tmp_path / "configs" / "lightning_train"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "there is no Python package in it"),
        (["configs/model/toy.yaml", "toy/parts.py"], "toy/__init__.py does not exist"),
        (["configs/model/toy.yaml", "model_toy.py"], "__init__.py does not exist"),
        (["__init__.py"], "there is no configs/ folder in it"),
        (["toy/__init__.py"], "there is no configs/ folder in it or in its package"),
        (["configs/a.yaml", "one/__init__.py", "two/__init__.py"], "several packages (one, two)"),
    ],
)
def test_missing_parts_are_named(tmp_path: Path, files: list[str], reason: str) -> None:
    root = tmp_path / "place"
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    with pytest.raises(ModelLayoutError) as caught:
        read_directory("toy", root, "xlm_models.json")
    assert reason in str(caught.value)
    assert str(root) in str(caught.value)
    assert caught.value.name == "toy"


def test_an_installed_package_needs_configs_inside(tmp_path: Path) -> None:
    with pytest.raises(ModelLayoutError, match="does its wheel contain them"):
        read_installed("toy", tmp_path, "XLM_MODELS_PACKAGES", None)


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({}, "unknown"),
        ({"__init__.py": "__version__ = '1.2.3'\n"}, "1.2.3"),
        ({"__about__.py": "__version__ = '2.0'\n", "__init__.py": "from .__about__ import __version__\n"}, "2.0"),
        ({"__init__.py": "raise RuntimeError\n__version__ = '3'\n"}, "3"),
        ({"__init__.py": "this is no python"}, "unknown"),
        ({"__init__.py": "__version__ = compute()\n"}, "unknown"),
    ],
)
def test_version_is_read_not_imported(tmp_path: Path, files: dict[str, str], version: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_version(tmp_path) == version

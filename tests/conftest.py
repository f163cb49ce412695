"""The empty folders in which tests train, evaluate and load: one for a module, or one for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xlm import flags
from xlm.utils.instantiate import clear_components


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder, as current directory, without models or prepared data of the environment."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable in ("XLM_MODELS_PATH", "XLM_MODELS_PACKAGES", "XLM_CACHE_DIR"):
            patch.delenv(variable, raising=False)
        yield folder
        clear_components()
        flags.set_flags({"DEBUG": False, "DEBUG_OVERFIT": False})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, shared by the tests of a module."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of the test's own, as current directory, with the module's prepared data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_CACHE_DIR", str(cache))
    yield tmp_path
    clear_components()

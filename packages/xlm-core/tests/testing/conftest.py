"""The tidy model, and copies of it with a mistake, ready to be checked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import pytest
from omegaconf import DictConfig, OmegaConf

from xlm.testing.model_under_test import ModelUnderTest, downscale, small_run
from xlm.testing.runner import Runner

MODELS = Path(__file__).parent / "models"
Change = Callable[[Path], None]
CLASS_OVERRIDE = re.compile(r"[a-z][\w.]*=tidy\.[\w.]+")


class RunnerOf(Protocol):
    """Makes the runner of the tidy model with overrides, or of a changed copy of its files."""

    def __call__(self, overrides: Sequence[str] = (), change: Change | None = None) -> Runner: ...


@pytest.fixture
def models() -> Path:
    """The folder with an xlm_models.json that lists the tidy model."""
    return MODELS


@pytest.fixture
def runner_of(tmp_path: Path) -> RunnerOf:
    def make(overrides: Sequence[str] = (), change: Change | None = None) -> Runner:
        if change is None:
            return tidy_runner(tmp_path, MODELS, "tidy", overrides)
        return tidy_runner(tmp_path, tmp_path, changed_copy(tmp_path, change), overrides)

    return make


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The runner of the tidy model as it is."""
    return tidy_runner(tmp_path_factory.mktemp("good"), MODELS, "tidy", ())


def tidy_runner(folder: Path, search: Path, name: str, overrides: Sequence[str]) -> Runner:
    environ = {"XLM_MODELS_PATH": str(search)}
    model = ModelUnderTest(name, folder, environ=environ, cwd=folder, overrides=overrides)
    if search == MODELS:
        experiments, run = composed()
        model.__dict__["composed"] = experiments
        # Composing takes half of a test's time, and an override that names another class needs none.
        if all(CLASS_OVERRIDE.fullmatch(override) for override in overrides):
            cfg = run.copy()
            for override in overrides:
                OmegaConf.update(cfg, *override.split("="))
            model.__dict__["cfg"] = downscale(cfg, folder)
    return Runner(model)


@cache
def composed() -> tuple[dict[str, DictConfig], DictConfig]:
    """The experiments of the tidy model, and its small run without overrides."""
    with TemporaryDirectory() as folder:
        environ = {"XLM_MODELS_PATH": str(MODELS)}
        model = ModelUnderTest("tidy", Path(folder), environ=environ, cwd=Path(folder))
        return model.composed, model.compose(*small_run(model.package, model.experiment))


def changed_copy(folder: Path, change: Change) -> str:
    """Write a changed copy below a new name, since Python imports a name once; returns the name."""
    name = f"tidy_{folder.name}".replace("-", "_").lower()
    shutil.copytree(MODELS / "tidy", folder / "original", ignore=shutil.ignore_patterns("__pycache__"))
    change(folder / "original")
    for file in (folder / "original").rglob("*.*"):
        if file.is_file():
            inside = file.relative_to(folder / "original").as_posix()
            written = folder / "copy" / inside.replace("tidy", name)
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(file.read_text().replace("tidy", name))
    (folder / "xlm_models.json").write_text(f'{{"{name}": "copy"}}')
    return name

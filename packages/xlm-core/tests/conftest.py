"""Fixtures for tests that find, compose and run toy model packages."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

WriteModel = Callable[..., Path]
RunXlm = Callable[..., "subprocess.CompletedProcess[str]"]


def model_files(name: str, package: str) -> dict[str, str]:
    """The configs of a toy model: a network, a model type that fills the role `lm`, data, an experiment, a job."""
    return {
        f"model/{name}.yaml": f"_target_: {package}.parts.Net\nwidth: 4\n",
        f"model_type/{name}.yaml": f"# @package _global_\ndefaults:\n  - /collator@collators.lm: lm_{name}\n",
        f"collator/lm_{name}.yaml": f"_target_: {package}.parts.Collator\n",
        f"datamodule/data_{name}.yaml": (
            "# @package _global_\n"
            "datamodule:\n"
            "  _target_: builtins.dict\n"
            "  dataset_managers: {train: {lm: {collator: '${collators.lm}'}}}\n"
        ),
        f"experiment/{name}.yaml": (
            "# @package _global_\n"
            "defaults:\n"
            f"  - override /datamodule: data_{name}\n"
            f"  - override /model: {name}\n"
            f"  - override /model_type: {name}\n"
        ),
        "commands.yaml": f"hello_{name}: {package}.parts.hello\n",
    }


PARTS = '''\
"""A toy model's only module."""


class Net:
    def __init__(self, width):
        self.width = width


class Collator:
    def __call__(self, examples):
        return {"examples": examples}


def hello(cfg):
    print("hello from", __file__, "as", cfg.job_name)
'''


@pytest.fixture
def write_model() -> WriteModel:
    """Writes a toy model: flat, nested (configs beside the package) or inner (configs inside the package)."""

    def write(root: Path, name: str = "toy", layout: str = "flat", package: str | None = None, init: str = "") -> Path:
        package_dir = root if layout == "flat" else root / (package or name)
        configs = root / "configs" if layout in ("flat", "nested") else package_dir / "configs"
        package_dir.mkdir(parents=True, exist_ok=True)
        (package_dir / "__init__.py").write_text(init)
        (package_dir / "parts.py").write_text(PARTS)
        for path, text in model_files(name, package_dir.name).items():
            (configs / path).parent.mkdir(parents=True, exist_ok=True)
            (configs / path).write_text(text)
        return root

    return write


# Two steps of the bigram model on a few graphs, tested on nothing yet.
BIGRAM_RUN = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=t", "trainer_strategy=cpu", "loggers=debug",
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=20",
    "datamodule.dataset_managers.val.prediction.num_examples=5", "per_device_batch_size=16",
    "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "test_after_training=false",
)  # fmt: skip
TrainBigram = Callable[..., Path]


@pytest.fixture(scope="module")
def train_bigram(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainBigram]:
    """Trains `BIGRAM_RUN` with more overrides as `runs/t` of a new folder, which has its data in `cache`."""
    from xlm.commands import train
    from xlm.compose import load_config
    from xlm.utils.instantiate import clear_components

    with pytest.MonkeyPatch.context() as patch:

        def run(*overrides: str) -> Path:
            folder = tmp_path_factory.mktemp("trained")
            patch.chdir(folder)
            patch.setenv("XLM_MODELS_PATH", str(Path(__file__).parent / "models"))
            patch.setenv("XLM_CACHE_DIR", str(folder / "cache"))
            train.run(load_config([*BIGRAM_RUN, *overrides]))
            clear_components()
            return folder

        yield run


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, without model variables; what it activates is undone at the end."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("XLM_MODELS_PATH", "XLM_MODELS_PACKAGES", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """Undoes what activating models and running jobs leave in this process."""
    from hydra.core.hydra_config import HydraConfig

    from xlm.external_models import activate
    from xlm.utils.instantiate import clear_components

    path, modules = list(sys.path), set(sys.modules)
    log = logging.getLogger()
    level, handlers = log.level, list(log.handlers)
    yield
    log.handlers[:] = handlers
    log.setLevel(level)
    activate({})
    clear_components()
    HydraConfig.instance().cfg = None
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.split(".")[0].startswith("toy"):
            del sys.modules[name]


@pytest.fixture
def run_xlm(work_dir: Path) -> RunXlm:
    """Runs the installed `xlm` in a process of its own, in the empty directory; `env` adds variables."""
    program = Path(sys.executable).with_name("xlm")

    def run(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [str(program), *args]
        return subprocess.run(
            command, cwd=work_dir, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=120
        )

    return run

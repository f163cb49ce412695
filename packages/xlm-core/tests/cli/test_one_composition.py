"""A single run is composed once, to what Hydra composes in two passes; sweeps and errors are Hydra's."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from xlm.cli.one_composition import one_composition

pytestmark = pytest.mark.usefixtures("fresh_process")

QUIET = [
    "hydra.run.dir=r", "hydra.sweep.dir=s", "hydra.output_subdir=null",
    "hydra/job_logging=none", "hydra/hydra_logging=none",
]  # fmt: skip
CONFIG = "defaults: [{part: small}, _self_]\nname: ${hydra:job.override_dirname}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "part").mkdir()
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "sweep.yaml").write_text("defaults: [{part: '???'}, _self_]\nhydra: {mode: MULTIRUN}\n")
    for name, width in (("small", 4), ("large", 9)):
        (tmp_path / "part" / f"{name}.yaml").write_text(f"width: {width}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return tmp_path


def outcome(monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str], once: bool) -> tuple[list[Any], int]:
    """The configurations of the runs, Hydra's own part included, or the error; and how often Hydra composed."""
    found: list[Any] = []
    count = 0
    compose = ConfigLoaderImpl._load_configuration_impl

    def counted(*args: Any, **options: Any) -> DictConfig:
        nonlocal count
        count += 1
        return compose(*args, **options)

    def task(cfg: DictConfig) -> None:
        found.append({**OmegaConf.to_container(cfg, resolve=True), "hydra": OmegaConf.to_container(HydraConfig.get())})  # type: ignore[dict-item]

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    monkeypatch.setattr(sys, "argv", ["xlm", *words, *QUIET])
    name = "sweep" if "part=small,large" in words else "config"
    try:
        with one_composition() if once else nullcontext():
            hydra.main(version_base="1.3", config_path=str(folder), config_name=name)(task)()
    except Exception as error:  # noqa: BLE001 - compared
        found.append((type(error), str(error)))
    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", compose)
    return found, count


@pytest.mark.parametrize(
    ("words", "num_found", "num_composed"),
    [
        (["part=large", "+more=1"], 1, 1),
        (["part.width=3", "hydra.mode=RUN"], 1, 1),
        (["part=small,large"], 2, 7),  # the file says that it is a sweep, and has no part without it
        (["part.wide=3"], 1, 2),
        (["part.width=1,2"], 1, 2),
    ],
)
def test_what_is_composed_and_how_often(
    monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str], num_found: int, num_composed: int
) -> None:
    expected, before = outcome(monkeypatch, folder, words, once=False)
    found, count = outcome(monkeypatch, folder, words, once=True)
    assert found == expected
    assert len(found) == num_found
    assert (before, count) == (max(before, 2), num_composed)  # 6 of a sweep of two
    assert ConfigLoaderImpl.load_configuration.__name__ == "load_configuration"

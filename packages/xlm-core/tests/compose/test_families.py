"""A network of another model package is refused, unless it is shared on purpose."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from xlm.compose import families
from xlm.compose.families import check_network
from xlm.errors import ConfigError
from xlm.external_models.package import ModelPackage

Packages = Callable[..., None]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """Model packages `one` and `two`, each with networks and a model type; `files` are further configs of `two`."""

    def write(networks: tuple[str, ...] = ("big_two", "two"), **files: str) -> None:
        found = {}
        for name, members in (("one", ("big_one", "one")), ("two", networks)):
            configs = tmp_path / name / "configs"
            shutil.rmtree(configs, ignore_errors=True)
            paths = [*(f"model/{member}" for member in members), f"model_type/{name}"]
            texts = dict.fromkeys(paths, "") | (files if name == "two" else {})
            for path, text in texts.items():
                (configs / path).parent.mkdir(parents=True, exist_ok=True)
                (configs / f"{path}.yaml").write_text(text)
            found[name] = ModelPackage(name, tmp_path / name, "a test", "1", tmp_path / name, configs)
        monkeypatch.setattr(families, "active_models", lambda: found)

    return write


def config(network: str = "one.net.Net", loss: str = "two.loss.Loss") -> DictConfig:
    return OmegaConf.create({"model": {"_target_": network}, "loss": {"_target_": loss}, "predictor": None})


MIXED = {"model": "big_one", "model_type": "two"}


def test_a_network_of_another_package(packages: Packages) -> None:
    packages()
    check_network(config("two.net.Net"), {"model": "big_two", "model_type": "two"})
    with pytest.raises(ConfigError) as refused:
        check_network(config(), MIXED)
    assert str(refused.value).splitlines() == [
        "model=big_one is a network of 'one', and model_type 'two' cannot use it. Did you mean 'big_two'?",
        "Networks of 'two': big_two, two",
    ]
    assert refused.value.key == "model"


def test_networks_that_are_shared(packages: Packages) -> None:
    packages()
    check_network(config(loss="one.loss.Loss"), MIXED)  # a model type around the other package's loss
    check_network(config("xlm.modules.pretrained.Net"), MIXED)  # a network of core
    check_network(config("mine.Net"), {"model": "mine", "model_type": "two"})  # of a person's own folder
    check_network(config(), {"model": "big_one", "model_type": "mine"})
    packages(networks=())  # a package without networks needs those of others
    check_network(config(), MIXED)


def test_a_network_that_a_package_names(packages: Packages) -> None:
    packages(**{"experiment/x_two": "defaults:\n  - override /model: big_one\n"})
    check_network(config(), MIXED)
    packages(**{"experiment/x_two": "# a big_one_of_others\n"})
    with pytest.raises(ConfigError):
        check_network(config(), MIXED)

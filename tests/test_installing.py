"""Ways into an environment: wheel, setup.py package, entry point, directory; what `xlm models` says of them."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from linked_environment import Environment
from wheels import build
from workspace import ROOT, read_packages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

JOBS = '''\
"""A job of this model."""


def hello(cfg):
    print(f"hello from {cfg.model.name}")
'''
EXPERIMENT = """\
# @package _global_
defaults:
  - override /datamodule: {name}
  - override /model: {name}
  - override /model_type: {name}
"""
SETUP = """\
from setuptools import setup

setup(
    name="{name}",
    version="0.2.0",
    packages=["{name}"],
    package_data={{"{name}": {package_data}}},
    include_package_data=True,
)
"""
PACKAGED = '["configs/**/*.yaml", "configs/**/*.yml"]'
PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.3.0"
dependencies = ["xlm-core>=1.0,<2"]

[project.entry-points."xlm.models"]
{name} = "{name}"
"""


def write_model(root: Path, name: str, build_file: str = "", text: str = "") -> Path:
    """A model in `root`, its package below, with a network, an experiment and a job."""
    package = root / name
    files = {
        "__init__.py": '__version__ = "0.1.0"\n',
        "jobs.py": JOBS,
        f"configs/model/{name}.yaml": f"_target_: builtins.dict\nname: {name}\n",
        f"configs/model_type/{name}.yaml": "# @package _global_\nloss: {_target_: builtins.dict}\n",
        f"configs/datamodule/{name}.yaml": "# @package _global_\ndatamodule: {_target_: builtins.dict}\n",
        f"configs/experiment/{name}.yaml": EXPERIMENT.format(name=name),
        "configs/commands.yaml": f"hello_{name}: {name}.jobs.hello\n",
    }
    for file, content in files.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(content)
    if build_file:
        (root / build_file).write_text(text)
    return root


@dataclass
class Place:
    """An environment, and the folder from which its `xlm` is run."""

    environment: Environment
    folder: Path

    def install(self, *arguments: str) -> None:
        done = self.environment.install(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def xlm(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return self.environment.run("xlm", *arguments, cwd=self.folder, COLUMNS="80", **variables)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What the tests share: xlm-core and xlm-ilm from wheels, and packages of strangers, built and installed."""
    base = tmp_path_factory.mktemp("installing")
    packages = read_packages(ROOT)
    for name in ("xlm-core", "xlm-ilm"):
        build(packages[name], base / "wheels")
    place = Place(Environment(base / "venv"), base / "work")
    place.folder.mkdir()
    place.install("--find-links", str(base / "wheels"), "xlm-ilm")
    sources = [
        write_model(base / "pointed", "pointed", "pyproject.toml", PYPROJECT.format(name="pointed")),
        write_model(base / "plain_a", "plain_a", "setup.py", SETUP.format(name="plain_a", package_data=PACKAGED)),
        write_model(base / "plain_b", "plain_b", "setup.py", SETUP.format(name="plain_b", package_data=PACKAGED)),
        write_model(base / "bare", "bare", "setup.py", SETUP.format(name="bare", package_data=[])),
    ]
    place.install("--no-deps", *map(str, sources))
    return place


def test_installed_packages_are_found_with_nothing_at_all(place: Place) -> None:
    done = place.xlm("models")
    assert (done.returncode, done.stderr) == (0, "")
    names = {line.split()[0] for line in done.stdout.splitlines() if line and not line[0].isspace()}
    assert {"ilm", "pointed"} <= names
    assert not {"plain_a", "plain_b", "bare"} & names, "nobody has listed these"
    assert place.xlm("hello_pointed", "experiment=pointed").stdout == "hello from pointed\n"


def test_plain_packages_are_found_once_they_are_listed(place: Place) -> None:
    listed = {"XLM_MODELS_PACKAGES": "plain_a:plain_b"}
    assert place.xlm("models", **listed).returncode == 0
    for name in ("plain_a", "plain_b"):
        done = place.xlm(f"hello_{name}", f"experiment={name}", **listed)
        assert done.stdout == f"hello from {name}\n", done.stderr
    unlisted = place.xlm("hello_plain_a", "experiment=plain_a")
    assert unlisted.returncode == 1
    assert "Traceback" not in unlisted.stderr


def test_a_listed_package_without_its_configs_is_named(place: Place) -> None:
    done = place.xlm("models", XLM_MODELS_PACKAGES="bare")
    assert done.returncode == 1
    assert "there is no configs/ folder in it; does its wheel contain them?" in done.stderr


@pytest.fixture
def crowded(place: Place, tmp_path: Path) -> Place:
    """One directory model, and a second one that has the name of an installed model."""
    write_model(tmp_path / "local", "local")
    write_model(tmp_path / "ilm", "ilm")
    (tmp_path / "xlm_models.json").write_text(json.dumps({"local": "local", "ilm": "ilm"}))
    return Place(place.environment, tmp_path)


def test_everything_at_once(crowded: Place) -> None:
    done = crowded.xlm("models", XLM_MODELS_PACKAGES="plain_a:bare")
    work, site = crowded.folder, crowded.environment.site
    assert done.stdout.splitlines() == [
        "name     version  source",
        "bare     -        XLM_MODELS_PACKAGES",
        f"  directory: {site}/bare",
        "  problem:   there is no configs/ folder in it; does its wheel contain them?",
        "ilm      -        xlm_models.json, entry point of xlm-ilm",
        f"  directory: {work}/ilm/ilm (from xlm_models.json)",
        f"  directory: {site}/ilm (from entry point of xlm-ilm)",
        "  problem:   Duplicate model name: ilm",
        "local    0.1.0    xlm_models.json",
        f"  directory: {work}/local",
        "plain_a  0.2.0    XLM_MODELS_PACKAGES",
        f"  directory: {site}/plain_a",
        "pointed  0.3.0    entry point of pointed",
        f"  directory: {site}/pointed",
        "",
        "3 models can be used, 2 cannot.",
    ]
    assert done.stderr.splitlines() == [
        f"Error: Model 'bare' in {site}/bare: there is no configs/ folder in it; does its wheel contain them?",
        "ExternalModelConflictError: Duplicate model name: ilm",
        f"  {work}/ilm/ilm  (from xlm_models.json)",
        f"  {site}/ilm  (from entry point of xlm-ilm)",
        "Each model needs its own name: remove or rename the entry in all but one of these places.",
    ]
    assert done.returncode == 1

"""The guide that this project was built from, word for word: what its excerpts say is executed from its own text."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pytest

from xlm.cli.main import main
from xlm.compose import load_config
from xlm.external_models import activate
from xlm.harness import Harness, LossFunction, Predictor

SEED = (Path(__file__).parent / "seed" / "external-language-models.txt").read_text(encoding="utf-8")
NAME = "my_awesome_model"


def between(start: str, end: str) -> str:
    """The text behind the first `start`, up to the next `end`."""
    _, found, rest = SEED.partition(start)
    assert found, start
    text, found, _ = rest.partition(end)
    assert found, end
    return text.strip("\n") + "\n"


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory without variables of models."""
    monkeypatch.chdir(tmp_path)
    for variable in ("XLM_MODELS_PATH", "XLM_MODELS_PACKAGES"):
        monkeypatch.delenv(variable, raising=False)
    before = list(sys.path)
    yield tmp_path
    activate({})
    sys.path[:] = before
    for name in [name for name in sys.modules if name.split(".")[0] in (NAME, "my_model")]:
        del sys.modules[name]


@pytest.fixture
def scaffolded(folder: Path) -> Path:
    """What the command of step 1 leaves."""
    from xlm.scaffold.cli import main as scaffold

    [command] = commands(between("model structure:\n", "This creates"))
    assert command == ["xlm-scaffold", NAME]
    assert scaffold(command[1:]) == 0
    return folder / NAME


def said(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The errors of a command that fails."""
    capsys.readouterr()
    assert main(list(command)) == 1
    return capsys.readouterr().err


def test_a_scaffolded_model_has_every_file_that_is_named(scaffolded: Path) -> None:
    keys = re.findall(r"• (\S+\.py) - ", between("Key files to implement:", "3. Test Your Model"))
    assert len(keys) == 6
    assert [key for key in keys if not (scaffolded.parent / key).is_file()] == []
    tree = between("follows this structure:\n", "Configuration")
    entries = re.findall(r"[├└]── (\S+)", tree)
    assert {"__init__.py", "configs/", "experiment/", "commands.yaml", "setup.py", "README.md"} <= set(entries)
    optional = {"commands.yaml"}
    there = {path.name + "/" * path.is_dir() for path in scaffolded.rglob("*")}
    assert set(entries) - there - optional == set()
    assert json.loads((scaffolded.parent / "xlm_models.json").read_text()) == {NAME: NAME}


def test_the_command_of_step_3_is_a_run_on_one_batch(scaffolded: Path) -> None:
    """What it trains is tested beside the scaffold's templates."""
    [command] = commands(between("3. Test Your Model\n", "Main Components"))
    assert command[:2] == ["xlm", "job_type=train"]
    cfg = load_config(command[1:])
    assert cfg.model._target_.startswith(f"{NAME}.")
    assert (cfg.job_name, cfg.global_flags.DEBUG_OVERFIT) == ("my_model_test", True)


def test_the_interfaces_are_those_of_the_components() -> None:
    """`...` among arguments stands for what the author wants: without it, the excerpts are Python."""
    names: dict[str, Any] = {"Any": Any, "Generic": Generic, "Harness": Harness, "List": list, "Dict": dict}
    names |= {"Protocol": Protocol, "Tokenizer": Any, "NoiseSchedule": Any, "Tensor": Any}
    names |= {name: TypeVar(name) for name in ("T_in", "T_out", "T_out_pred")}
    found: dict[str, set[str]] = {}
    for start, end in (
        ("class LossFunction", "Examples: xlm-models/arlm/loss"),
        ("class Predictor", "Examples: xlm-models/arlm/predictor"),
        ("class Collator", "Examples: xlm-models/arlm/datamodule"),
    ):
        text = f"{start}{between(start, end)}".replace(", ...)", ")")
        # A docstring below a method whose body is `...` on its line.
        text = re.sub(r'(?m)^( +)(def configure.*): \.\.\.\n +""".*\n +"""', r"\1\2: ...", text)
        exec(compile(ast.parse(text), "seed", "exec"), names)
        for node in ast.parse(text).body:
            assert isinstance(node, ast.ClassDef)
            found[node.name] = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    assert found["LossFunction"] == {"loss_fn", "configure"}
    assert found["Predictor"] == {"predict", "to_dict"}
    assert found["Collator"] == {"__call__"}
    assert all(hasattr(LossFunction, name) for name in found["LossFunction"])
    assert all(hasattr(Predictor, name) for name in found["Predictor"])


def test_the_experiment_as_it_is_written(scaffolded: Path) -> None:
    text = between("Use them in your experiments:\n", "Or via command line:")
    path = re.match(r"# (\S+)\n", text)
    assert path
    for place in (scaffolded.parent, scaffolded):
        file = place / path.group(1)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        cfg = load_config(["experiment=my_experiment"])
        assert cfg.model._target_.startswith(f"{NAME}.")
        file.unlink()
    [command] = commands(between("Or via command line:\n", "Key config locations"))
    assert command[:2] == ["xlm", "job_type=train"]
    assert load_config(command[2:]).model._target_.startswith(f"{NAME}.")


@pytest.mark.parametrize("place", [".", "xlm-models", "somewhere"])
def test_models_are_found_in_the_places_that_are_named(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xlm.scaffold.cli import main as scaffold

    entries = json.loads(between("in the search directory:\n", "The paths are relative"))
    assert list(entries) == [NAME, "another_model"]
    (folder / place).mkdir(exist_ok=True)
    monkeypatch.chdir(folder / place)
    for name, path in entries.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        assert scaffold([name, "--output-dir", str(Path(path).parent)]) == 0
    Path("xlm_models.json").write_text(json.dumps(entries))
    monkeypatch.chdir(folder)
    if place == "somewhere":
        monkeypatch.setenv("XLM_MODELS_PATH", place)
    capsys.readouterr()
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"(?m)^{name} ", out) for name in (*entries, "arlm", "mlm", "ilm", "mdlm"))


def test_the_setup_py_packages_the_configs(scaffolded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import setuptools

    asked: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: asked.update(given))
    exec("from setuptools import setup\n" + between("packages the configs:\n", "Installation and registration"))
    said_by_seed = dict(asked)
    assert said_by_seed["package_data"] == {NAME: ["configs/**/*.yaml", "configs/**/*.yml"]}
    monkeypatch.chdir(scaffolded)
    exec(compile((scaffolded / "setup.py").read_text(), "setup.py", "exec"), {"__name__": "__main__"})
    assert asked["packages"] == said_by_seed["packages"]
    assert set(said_by_seed["package_data"][NAME]) <= set(asked["package_data"][NAME])


def test_errors_are_found_under_the_words_of_the_troubleshooting(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlm.scaffold.cli import main as scaffold

    monkeypatch.setenv("XLM_MODELS_PACKAGES", "my_model")
    assert between("Model Not Found\n\n", "\n\nCheck").strip() in said(capsys, "model=my_model")
    monkeypatch.delenv("XLM_MODELS_PACKAGES")
    not_found = between("Config Not Found\n\n", "\n\nCheck").strip()
    assert said(capsys, "job_type=train", "model=my_model").startswith(not_found)
    assert scaffold(["my_model"]) == 0
    target = between("If you see ", ", try importing").strip()
    bad = "model._target_=" + target.split()[-1]
    assert target in said(capsys, "experiment=star_easy_my_model", bad)
    shutil.copytree(folder / "my_model", folder / "xlm-models" / "my_model")
    shutil.copy(folder / "xlm_models.json", folder / "xlm-models")
    duplicate = between("Duplicate Model Names\n\n", "\n\nSolution").strip()
    assert said(capsys, "model=my_model").startswith(duplicate)


def test_a_module_that_python_finds_is_found(folder: Path) -> None:
    """ "Try importing manually": what `python -c` imports from the working directory can be a target too."""
    (folder / "nearby.py").write_text("class Net: ...\n")
    load_config(["experiment=star_easy_mlm", "model=tiny_mlm"])
    from xlm.utils.imports import get_function

    assert get_function("nearby.Net").__name__ == "Net"

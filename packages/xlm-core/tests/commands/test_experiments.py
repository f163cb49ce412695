"""`xlm experiments`: every experiment with its model and data, those of models and of one's own folder too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.cli.main import main
from xlm.commands.experiments import find_experiments
from xlm.external_models import core_config_dir, discover

if TYPE_CHECKING:
    from ..conftest import WriteModel


@pytest.fixture
def own(work_dir: Path, write_model: WriteModel) -> Path:
    model = write_model(work_dir / "toy")
    (work_dir / "xlm_models.json").write_text('{"toy": "toy"}')
    folder = model / "configs" / "experiment"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy_on_stars.yaml").write_text(
        "# @package _global_\n# Stars in seconds. More text.\n"
        "defaults:\n  - star_easy\n  - override /model_type: toy\n  - override /datamodule: star_hard\n"
    )
    mine = work_dir / "configs" / "experiment"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text("defaults:\n  - /experiment/toy_on_stars\nseed: 3\n")
    (mine / "damaged.yaml").write_text("# It cannot be read.\na: [\n")
    (mine / "circle.yaml").write_text("defaults: [circle]\n")
    return work_dir


def test_all_are_there(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiments", "json=true"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["toy_on_stars"] == {
        "name": "toy_on_stars", "model": "toy", "data": "star_hard", "about": "Stars in seconds", "source": "toy"
    }  # fmt: skip
    assert (found["mine"]["model"], found["mine"]["data"], found["mine"]["source"]) == (
        "toy",
        "star_hard",
        "own configs",
    )
    assert found["damaged"]["about"] == "It cannot be read"
    assert found["circle"]["data"] == ""
    core = {path.stem for path in (core_config_dir() / "experiment").glob("*.yaml")}
    assert core <= set(found)
    for name in core:
        assert found[name]["data"], name
        assert found[name]["about"], name
        assert "@package" not in found[name]["about"]


def test_names_are_those_that_hydra_knows(own: Path) -> None:
    names = [each.name for each in find_experiments(discover(os.environ, own))]
    assert names == sorted(set(names))


def test_words_choose(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["experiments", "star", "toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[0] for line in lines[: lines.index("")]] == ["name", "mine", "toy_on_stars"]
    assert main(["experiments", "*_stars"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "toy_on_stars", "toy", "star_hard", "Stars", "in", "seconds"
    ]  # fmt: skip
    assert main(["experiments", "nothing_like_it"]) == 0
    assert capsys.readouterr().out.startswith("There is no experiment that matches 'nothing_like_it'. There are ")

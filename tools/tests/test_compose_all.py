"""Tests of composing every experiment: what is found must be what is wanted, and a broken one is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import compose_all
from xlm.external_models import activate

CONFIGS = {
    "model/toy.yaml": "_target_: builtins.dict\n",
    "model_type/toy.yaml": "# @package _global_\nloss: {_target_: builtins.dict}\n",
    "datamodule/toy.yaml": "# @package _global_\ndatamodule: {_target_: builtins.dict}\n",
    "experiment/toy.yaml": (
        "# @package _global_\n"
        "defaults: [{override /model: toy}, {override /model_type: toy}, {override /datamodule: toy}]\n"
    ),
}


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only model there is: one experiment, in the current directory."""
    root = tmp_path / "toy"
    for name, text in CONFIGS.items():
        (root / "configs" / name).parent.mkdir(parents=True)
        (root / "configs" / name).write_text(text)
    (root / "__init__.py").touch()
    (tmp_path / "xlm_models.json").write_text('{"toy": "toy"}')
    monkeypatch.chdir(tmp_path)
    found = compose_all.find_models
    monkeypatch.setattr(compose_all, "find_models", lambda *args: {k: v for k, v in found(*args).items() if k == "toy"})
    yield root
    activate({})


def test_what_composes_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert compose_all.main(["toy"]) == 0
    assert capsys.readouterr().out == "toy unknown: toy\n"


def test_a_broken_experiment_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "configs" / "experiment" / "bad.yaml").write_text("defaults:\n  - override /model: nowhere\n")
    assert compose_all.main(["toy"]) == 1
    assert "experiment=bad debug=overfit: " in capsys.readouterr().err


def test_exactly_the_wanted_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert compose_all.main([]) == 1
    assert compose_all.main(["toy", "other"]) == 1
    assert capsys.readouterr().err.splitlines() == ["found ['toy'], not []", "found ['toy'], not ['other', 'toy']"]


def test_a_model_without_experiments(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "configs" / "experiment" / "toy.yaml").unlink()
    assert compose_all.main(["toy"]) == 1
    assert "toy brings no experiments" in capsys.readouterr().err


def test_discovery_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "xlm_models.json").write_text("{")
    assert compose_all.main(["toy"]) == 1
    assert "xlm_models.json: it cannot be read as JSON" in capsys.readouterr().err

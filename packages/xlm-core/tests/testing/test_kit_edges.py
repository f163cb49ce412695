"""What the kit must not overlook, and what it must not blame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from xlm.testing import check_model
from xlm.testing.checks.invariance import NoFixedDevice
from xlm.testing.checks.package import _unmet, _wheel_names
from xlm.testing.contract import Violation

from .conftest import changed_copy

if TYPE_CHECKING:
    from .conftest import RunnerOf


def unimportable(folder: Path) -> None:
    (folder / "tidy/__init__.py").write_text("import absent\n")


def test_a_chosen_property_that_waits_brings_the_broken_one(tmp_path: Path) -> None:
    name = changed_copy(tmp_path, unimportable)
    found = check_model(name, search=tmp_path, properties=["targets", "padding"], environ={}, cwd=tmp_path)
    outcomes = [(outcome.prop.name, outcome.status) for outcome in found]
    assert outcomes == [("discovered", "failed"), ("targets", "inapplicable"), ("padding", "inapplicable")]


def test_an_endless_predictor_of_a_model_without_loss_is_found(runner_of: RunnerOf) -> None:
    runner = runner_of(["loss=null", "predictor._target_=tidy.broken_tidy.Endless"])
    assert runner.outcome("ends").status == "failed"
    assert runner.outcome("keeps-prompt").reason == "waits for 'ends'"


def test_limits_of_which_nothing_can_be_seen_do_not_pass(runner_of: RunnerOf) -> None:
    outcome = runner_of(["predictor._target_=tidy.other_tidy.CountsNoSteps", "~predictor.max_length"]).outcome("limits")
    assert outcome.status == "inapplicable"
    assert "num_steps" in outcome.reason


@pytest.mark.parametrize(
    "moved",
    [
        lambda made, there: made.to(there.device),
        lambda made, there: made.to(there),
        lambda made, there: made.type_as(there),
    ],
)
def test_what_is_taken_to_the_device_is_no_violation(moved: Callable[[Tensor, Tensor], Tensor]) -> None:
    there = torch.ones(3)
    with NoFixedDevice():
        together = moved(torch.arange(3.0), there) + there
    assert together.tolist() == [1.0, 2.0, 3.0]


def test_what_stays_is_one_also_after_a_detour() -> None:
    there = torch.ones(3)
    with NoFixedDevice(), pytest.raises(Violation, match="without device="):
        _ = torch.arange(3.0).clone().square() + there


def test_a_subpackage_called_data_belongs_to_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in (source / "mine", source / "mine/data", source / "runs"):
        folder.mkdir(parents=True)
    for file in ("mine/__init__.py", "mine/data/__init__.py", "runs/left_behind.txt"):
        (source / file).write_text("")
    (source / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='mine', version='1', packages=['mine', 'mine.data'])\n"
    )
    (tmp_path / "work").mkdir()
    assert "mine/data/__init__.py" in _wheel_names(source, tmp_path / "work")
    assert not (tmp_path / "work/source/source/runs").exists()


def test_what_a_build_requires_is_looked_up() -> None:
    assert _unmet(["pytest>=1", "pytest>=999", "no-such-distribution"]) == [
        "pytest>=999",
        "no-such-distribution",
    ]

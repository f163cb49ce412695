"""The job that prints a run's name."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from xlm.commands import name


def test_prints_only_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert name.run(OmegaConf.create({"job_name": "star_easy_arlm"})) == "star_easy_arlm"
    assert capsys.readouterr().out == "star_easy_arlm\n"

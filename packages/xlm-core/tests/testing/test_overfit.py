"""The overfit run returns the last value of a metric, or raises an error that says what is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xlm.testing import Violation, overfit, runner


@pytest.mark.slow
def test_the_last_value_of_a_metric(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_MODELS_PATH", str(models))
    short = ("trainer.max_steps=2", "trainer.val_check_interval=2", "experiment=star_mini_tidy")
    assert 0 < overfit(tmp_path, *short, metric="val/lm/accumulated_loss") < 10
    # The run is there: the other metric is read without another one.
    monkeypatch.setattr(runner.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), 0, "", ""))
    assert overfit(tmp_path) == 0.0
    with pytest.raises(Violation, match=r"no metric val/lm/absent. Its metrics are: .*val/lm/accumulated_loss"):
        overfit(tmp_path, metric="val/lm/absent")


def test_a_run_that_fails(tmp_path: Path) -> None:
    with pytest.raises(Violation, match="Could not find 'experiment/absent'"):
        overfit(tmp_path, "experiment=absent")

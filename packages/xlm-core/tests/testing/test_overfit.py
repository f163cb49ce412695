"""The overfit run returns the last value of a metric, or raises an error that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.testing import Violation, overfit

pytestmark = pytest.mark.slow
SHORT = ("trainer.max_steps=2", "trainer.val_check_interval=2", "experiment=star_mini_tidy")


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.setenv("XLM_MODELS_PATH", str(models))


def test_the_last_value_of_a_metric(tmp_path: Path) -> None:
    assert 0 < overfit(tmp_path, *SHORT, metric="val/lm/accumulated_loss") < 10
    assert overfit(tmp_path, *SHORT) == 0.0


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(Violation, match=r"no metric val/lm/absent. Its metrics are: .*val/lm/accumulated_loss"):
        overfit(tmp_path, *SHORT, metric="val/lm/absent")
    with pytest.raises(Violation, match="Could not find 'experiment/absent'"):
        overfit(tmp_path, "experiment=absent")

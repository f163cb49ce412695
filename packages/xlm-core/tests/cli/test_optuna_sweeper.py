"""Sweeps with Optuna: studies that continue, failed runs, options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from filelock import FileLock

from xlm.cli.main import main

if TYPE_CHECKING:
    from ..conftest import WriteModel

pytestmark = pytest.mark.usefixtures("fresh_process")

JOBS = """\
import math
import signal
from pathlib import Path

from xlm.errors import TrainingInterrupted


def score(cfg):
    print(cfg.job_name)
    if Path("stop").exists():
        raise TrainingInterrupted(signal.SIGTERM, "last.ckpt")
    if cfg.optimizer.lr > 0.5 and cfg.model.width == 5:
        raise RuntimeError("too wide")
    return {"loss": math.log10(cfg.optimizer.lr) ** 2 + cfg.model.width, "bad": math.nan}
"""
SEARCH = (
    "score", "experiment=toy", "hydra/sweeper=optuna", "hydra.sweeper.metric=loss",
    "optimizer.lr=tag(log,interval(1e-3,1.0))", "model.width=interval(4,8)", "paths.log_dir=search",
)  # fmt: skip


@pytest.fixture(autouse=True)
def toy(work_dir: Path, write_model: WriteModel) -> None:
    root = write_model(work_dir / "toy")
    (root / "toy_jobs.py").write_text(JOBS)
    (root / "configs" / "commands.yaml").write_text("score: toy.toy_jobs.score\n")
    (work_dir / "xlm_models.json").write_text('{"toy": "toy"}')


def study(folder: str = "search") -> optuna.Study:
    storage = f"sqlite:///{folder}/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def test_a_study_that_is_continued_tries_what_an_undisturbed_one_would(
    capsys: pytest.CaptureFixture[str], work_dir: Path
) -> None:
    assert main([*SEARCH, "hydra.sweeper.n_trials=3", "paths.log_dir=alone"]) == 0
    capsys.readouterr()
    assert main([*SEARCH, "hydra.sweeper.n_trials=1"]) == 0
    Path("stop").touch()
    # The second trial is stopped in its run, and the sweep with it.
    assert main([*SEARCH, "hydra.sweeper.n_trials=3"]) == 143
    stopped = capsys.readouterr().out.splitlines()[-1]
    Path("stop").unlink()
    assert main([*SEARCH, "hydra.sweeper.n_trials=3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == stopped  # the same run, which continues from its checkpoint
    assert printed[-2].endswith("3 trials, 3 complete. Kept in sqlite:///search/optuna.db")
    assert printed[-1].startswith("Best loss: ")
    one, other = study("alone").trials, study().trials
    assert [trial.params for trial in one] == [trial.params for trial in other]
    # The values are those of the override, which has six digits.
    assert [trial.value for trial in one] == [trial.value for trial in other]
    assert min(trial.value for trial in other) == study().best_value


@pytest.mark.slow  # eight trials
def test_failed_runs_are_failed_trials_and_the_exit_code_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.replace("interval(4,8)", "4,5").replace("tag(log,interval(1e-3,1.0))", "0.01,0.9") for word in SEARCH]
    assert main([*words, "hydra.sweeper.n_trials=8"]) == 1
    out, err = capsys.readouterr()
    states = {tuple(trial.params.values()): trial.state.name for trial in study().trials}
    assert states == {
        ("0.01", "4"): "COMPLETE", ("0.01", "5"): "COMPLETE", ("0.9", "4"): "COMPLETE", ("0.9", "5"): "FAIL",
    }  # fmt: skip
    # Equal values are one run.
    assert out.count("toy,model.width=4,optimizer.lr=0.01\n") == 1
    assert "toy,model.width=5,optimizer.lr=0.9: too wide" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["hydra.sweeper.metric=los"],
            "metric is 'los', but the run has no such metric. It has: bad, loss.",
        ),
        (["hydra.sweeper.sampler=TPE"], "hydra.sweeper.sampler is 'TPE', and must be one of: "),
        (["+hydra.sweeper.sampler_options.x=1"], "hydra.sweeper.sampler_options: "),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials is 0, and must be at least 1."),
        (["hydra.sweeper.mode=up"], "hydra.sweeper.mode is up, and must be min or max."),
    ],
)
def test_options_are_checked(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["score", *SEARCH[1:], "hydra.sweeper.n_trials=1", *words]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_one_process_runs_a_study(capsys: pytest.CaptureFixture[str], work_dir: Path) -> None:
    assert main([*SEARCH, "hydra.sweeper.n_trials=1"]) == 0
    (lock,) = (work_dir / "search").glob(".*.lock")
    with FileLock(lock):
        assert main([*SEARCH, "hydra.sweeper.n_trials=2"]) == 1
    assert "Another process is running the study" in capsys.readouterr().err
    assert len(study().trials) == 1

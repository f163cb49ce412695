"""Real processes whose reader ends or whose terminal is closed: the run is saved, and nobody sees a traceback."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
from pathlib import Path

import pytest

from warm_xlm import warm_xlm

pytestmark = [pytest.mark.timeout(600)]

SIZES = {"train.lm": 200, "val.lm": 8, "val.prediction": 8, "test.lm": 20, "test.prediction": 20}
SMALL = (
    "experiment=star_easy_arlm", "model=xtiny_arlm", "per_device_batch_size=8", "trainer_strategy=cpu",
    "trainer.max_steps=100000", "trainer.val_check_interval=4", "trainer.log_every_n_steps=4", "loggers=debug",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=50000",
    *(f"datamodule.dataset_managers.{place}.num_examples={size}" for place, size in SIZES.items()),
)  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("cache")
    places = {"XLM_CACHE_DIR": str(cache), "XLM_ROOT_DIR": str(cache / "root")}
    return {**os.environ, "OMP_NUM_THREADS": "1", **places}


@pytest.fixture(scope="module")
def runs(environment: dict[str, str]) -> Path:
    return Path(environment["XLM_ROOT_DIR"]) / "runs"


def until_closed(environment: dict[str, str], *words: str, num_lines: int) -> tuple[int, str]:
    """Exit code and standard error of a command whose reader ends after a few lines."""
    process = subprocess.Popen(
        [*warm_xlm(environment), *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(num_lines):
        assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=300), errors


def assert_saved(run: Path) -> None:
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert not (run / "run.lock").exists()


@pytest.fixture(scope="module")
def piped(environment: dict[str, str], runs: Path) -> Path:
    code, errors = until_closed(environment, "train", *SMALL, "job_name=piped", num_lines=9)
    assert code == 141
    assert f"Standard output was closed (SIGPIPE); saved {runs}/piped/checkpoints/last.ckpt.\n" in errors
    assert "The same command continues this run." in errors
    assert "Traceback" not in errors
    return runs / "piped"


def test_training_into_a_pipe_that_is_closed_is_saved(piped: Path) -> None:
    assert_saved(piped)


# What continues and ends here was saved by the test above: every night.
@pytest.mark.slow
def test_a_run_that_a_closed_pipe_has_stopped_continues(piped: Path, environment: dict[str, str]) -> None:
    code, errors = until_closed(environment, "train", *SMALL, "job_name=piped", num_lines=9)
    assert (code, "Traceback" in errors) == (141, False)
    steps = [int(line.split(",")[0]) for line in (piped / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(steps)


@pytest.mark.slow
def test_other_jobs_end_without_a_word(piped: Path, environment: dict[str, str]) -> None:
    small = ("generation.num_examples=8", "generation.output=-")
    assert until_closed(environment, "generate", str(piped), *small, num_lines=0) == (141, "")
    assert until_closed(environment, "eval", str(piped), "eval.num_samples=0", num_lines=0) == (141, "")
    assert (piped / "record_eval.json").is_file()
    assert list((piped / "predictions" / "test").rglob("*.jsonl"))
    code, errors = until_closed(environment, "runs", str(piped.parent), num_lines=0)
    assert (code, errors) == (141, "")


def test_a_run_whose_terminal_is_closed_is_saved(environment: dict[str, str], runs: Path) -> None:
    shown, inside = pty.openpty()
    process = subprocess.Popen(
        [*warm_xlm(environment), "train", *SMALL, "job_name=hung_up"],
        env=environment, stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that the system sends SIGHUP
    )  # fmt: skip
    os.close(inside)
    seen = b""
    while b"val/lm" not in seen:
        seen += os.read(shown, 4096)
    os.close(shown)
    assert process.wait(timeout=120) == 129
    assert_saved(runs / "hung_up")


# Cold, since both processes start anew.
@pytest.mark.slow
def test_both_ranks_stop_when_the_output_of_one_is_closed(environment: dict[str, str], runs: Path) -> None:
    two = ("trainer_strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    words = [word for word in SMALL if not word.startswith("trainer_strategy")]
    code, errors = until_closed(environment, "train", *words, *two, "job_name=two", num_lines=9)
    assert (code, "Traceback" in errors) == (141, False)
    assert errors.count("Standard output was closed (SIGPIPE); saved") == 1
    assert_saved(runs / "two")

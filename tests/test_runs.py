"""Whole runs through the command line: killed, interrupted, damaged, resumed, evaluated, generated from."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from warm_xlm import warm_xlm

pytestmark = [pytest.mark.timeout(600)]

XLM = str(Path(sys.executable).with_name("xlm"))
SMALL = (
    "experiment=star_easy_arlm",
    "model=xtiny_arlm",
    "per_device_batch_size=16",
    "trainer_strategy=cpu",
    "trainer.log_every_n_steps=5",
    "datamodule.dataset_managers.train.lm.num_examples=400",
    "datamodule.dataset_managers.test.lm.num_examples=50",
    "datamodule.dataset_managers.test.prediction.num_examples=50",
    "loggers=debug",
)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "XLM_CACHE_DIR": str(CACHE)}


CACHE = Path()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache of prepared data for all runs here."""
    global CACHE
    CACHE = tmp_path_factory.mktemp("cache")


def xlm(cwd: Path, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*warm_xlm(environment()), *arguments],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def weights(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


STEPS = (
    "trainer.max_steps=120",
    "trainer.val_check_interval=20",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=7",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    """A run of 120 steps (4.8 epochs of 25 batches) that nothing disturbed."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    xlm(directory, "train", *SMALL, *STEPS, "job_name=a")
    return directory / "runs" / "a"


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, "the run ended before it was to be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def disturbed(directory: Path, signum: int, after: str, *overrides: str) -> subprocess.Popen[str]:
    """Start a run and send it a signal once a checkpoint is there; warm where the signal is passed on."""
    program = [XLM] if signum == signal.SIGSTOP else warm_xlm(environment())
    process = subprocess.Popen(
        [*program, "train", *SMALL, *STEPS, "job_name=a", *overrides],
        cwd=directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.nice(10),  # so that the signal arrives before the run is over
    )  # fmt: skip
    wait_for(directory / "runs/a/checkpoints" / after, process)
    process.send_signal(signum)
    return process


# Where it is killed matters little to the second: every night.
@pytest.mark.parametrize("after", ["step-14.ckpt", pytest.param("step-28.ckpt", marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, uninterrupted: Path, after: str
) -> None:
    process = disturbed(tmp_path, signal.SIGSTOP, after)
    # While it is there nobody else may write into its folder, with the same settings or others.
    for lr in ([], ["optimizer.lr=0.5"]) if after == "step-14.ckpt" else ():
        second = xlm(tmp_path, "train", *SMALL, *STEPS, "job_name=a", *lr, ok=False)
        assert f"is in use by a training run (process {process.pid} on host" in second.stderr
        assert "Traceback" not in second.stderr
        assert " running " in xlm(tmp_path, "runs").stdout
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "runs/a/run.lock").exists()
    again = xlm(tmp_path, "train", *SMALL, *STEPS, "job_name=a")
    assert "has ended; this run takes over" in again.stderr
    assert not (tmp_path / "runs/a/run.lock").exists()
    assert "Resuming from step" in again.stdout
    assert_same_weights(tmp_path / "runs/a", uninterrupted)
    steps = [row["step"] for row in rows(tmp_path / "runs/a") if row["name"] == "train/lr"]
    assert steps == [str(n) for n in range(5, 125, 5)]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_goes_on(tmp_path: Path, uninterrupted: Path, signum: int) -> None:
    process = disturbed(tmp_path, signum, "step-14.ckpt")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signum
    assert "Traceback" not in errors
    assert "last.ckpt" in errors
    xlm(tmp_path, "train", *SMALL, *STEPS, "job_name=a")
    assert_same_weights(tmp_path / "runs/a", uninterrupted)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, uninterrupted: Path) -> None:
    process = disturbed(tmp_path, signal.SIGTERM, "step-14.ckpt", "callbacks.checkpoint_every_n_steps.keep_multiple=7")
    process.communicate(timeout=120)
    last = tmp_path / "runs/a/checkpoints/last.ckpt"
    os.truncate(last, last.stat().st_size // 2)
    again = xlm(tmp_path, "train", *SMALL, *STEPS, "job_name=a")
    assert "last.ckpt cannot be read" in again.stdout + again.stderr
    assert_same_weights(tmp_path / "runs/a", uninterrupted)


def test_another_configuration_in_the_same_folder_is_refused(tmp_path: Path, uninterrupted: Path) -> None:
    before = sorted((f, f.stat().st_mtime_ns) for f in uninterrupted.rglob("*"))
    done = xlm(uninterrupted.parents[1], "train", *SMALL, *STEPS, "job_name=a", "optimizer.lr=0.5", ok=False)
    assert "optimizer.lr: 0.0001 → 0.5" in done.stderr or "→ 0.5" in done.stderr
    assert "Traceback" not in done.stderr
    assert before == sorted((f, f.stat().st_mtime_ns) for f in uninterrupted.rglob("*"))


def test_a_finished_run_says_so_and_scores_again(uninterrupted: Path) -> None:
    before = weights(uninterrupted)
    done = xlm(uninterrupted.parents[1], "train", *SMALL, *STEPS, "job_name=a")
    assert "exact_match" in done.stdout
    after = weights(uninterrupted)
    assert all(torch.equal(before[name], after[name]) for name in before)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def results(run: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / name).read_text())
    return record


def test_a_run_leaves_everything_a_reader_needs(uninterrupted: Path) -> None:
    record = results(uninterrupted, "results.json")
    assert record["n"]["test/lm"] == record["n"]["test/prediction"] == 50
    assert {"versions", "git", "seed", "device", "config_hash", "command"} <= record.keys()
    assert (uninterrupted / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "max_steps: 120" in (uninterrupted / "config.yaml").read_text()
    names = {file.name for file in (uninterrupted / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "step-119.ckpt"}
    predictions = list((uninterrupted / "predictions/test").rglob("*.jsonl"))
    lines = predictions[0].read_text().splitlines()
    assert len(lines) == 50
    assert {"prompt", "prediction", "truth"} <= json.loads(lines[0]).keys()


def test_evaluation_gives_the_number_of_the_run_without_train_data(uninterrupted: Path) -> None:
    xlm(
        uninterrupted.parents[1], "eval", *SMALL[:5], *SMALL[6:], "job_name=a", "~datamodule.dataset_managers.train",
        "++eval.split=test", "per_device_val_batch_size=7",
    )  # fmt: skip
    evaluated = results(uninterrupted, "eval_test.json")["metrics"]
    trained = results(uninterrupted, "results.json")["metrics"]
    assert evaluated["test/lm/accumulated_loss"] == pytest.approx(trained["test/lm/accumulated_loss"], rel=1e-6)
    assert evaluated["test/prediction/exact_match"] == trained["test/prediction/exact_match"]


def test_generation_writes_rows(uninterrupted: Path) -> None:
    directory = uninterrupted.parents[1]
    xlm(directory, "generate", *SMALL, "job_name=a", "+generation.num_examples=3")
    from_data = [json.loads(line) for line in (uninterrupted / "generations.jsonl").read_text().splitlines()]
    assert len(from_data) == 3
    done = xlm(directory, "generate", *SMALL, "job_name=a", "+generation.prompts=['1 2 3 4 1 4','5 6 5 6']")
    assert "2 rows" in done.stdout


def test_a_checkpoint_of_another_size_says_which_keys_and_shapes(uninterrupted: Path, tmp_path: Path) -> None:
    done = xlm(
        tmp_path, "eval", *SMALL, "model=tiny_arlm", "job_name=b",
        f"++eval.checkpoint_path={uninterrupted}/checkpoints/best.ckpt", ok=False,
    )  # fmt: skip
    assert "does not fit the model" in done.stderr
    assert "model.embed_tokens.weight: (27, 64) in the checkpoint, (27, 128) in the model" in done.stderr
    assert "Traceback" not in done.stderr


def test_accumulation_takes_the_place_of_a_larger_batch(tmp_path: Path) -> None:
    steps = ("trainer.max_steps=10", "model.dropout=0.0")
    xlm(tmp_path, "train", *SMALL, *steps, "job_name=whole", "global_batch_size=32", "per_device_batch_size=32")
    xlm(tmp_path, "train", *SMALL, *steps, "job_name=parts", "global_batch_size=32", "per_device_batch_size=16")
    whole, parts = weights(tmp_path / "runs/whole"), weights(tmp_path / "runs/parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=2e-5, rtol=1e-3)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    steps = ("trainer.max_steps=10", "model.dropout=0.0", "global_batch_size=32")
    xlm(tmp_path, "train", *SMALL, *steps, "job_name=one", "per_device_batch_size=32")
    two = ("trainer_strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    xlm(tmp_path, "train", *SMALL, *steps, "job_name=two", "per_device_batch_size=16", *two)
    one, both = weights(tmp_path / "runs/one"), weights(tmp_path / "runs/two")
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, atol=2e-5, rtol=1e-3)
    for name in ("results.json",):
        scores, together = results(tmp_path / "runs/one", name), results(tmp_path / "runs/two", name)
        key = "test/lm/accumulated_loss"
        assert together["metrics"][key] == pytest.approx(scores["metrics"][key], rel=1e-4)


def test_a_batch_that_cannot_be_split_is_a_sentence_with_the_numbers(tmp_path: Path) -> None:
    done = xlm(tmp_path, "train", *SMALL, "global_batch_size=100", ok=False)
    assert "global_batch_size 100 is not divisible" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_no_checkpoint(tmp_path: Path) -> None:
    done = xlm(
        tmp_path, "train", *SMALL, "optimizer.lr=1e30", "trainer.max_steps=50", "trainer.gradient_clip_val=null",
        "callbacks.checkpoint_every_n_steps.every_n_train_steps=1", "job_name=a", ok=False,
    )  # fmt: skip
    assert "is not finite at step" in done.stderr
    assert "Traceback" not in done.stderr


def test_overfitting_one_batch_ends_when_it_is_learnt(tmp_path: Path) -> None:
    small = ("model=xtiny_arlm", "per_device_batch_size=8")
    done = xlm(tmp_path, "train", "job_name=t", "experiment=star_easy_arlm", "debug=overfit", *small)
    found = results(tmp_path / "runs/debug/t", "results.json")
    assert found["metrics"]["val/prediction/exact_match"] == 1.0
    assert found["step"] < 1000
    last = done.stdout.splitlines()[-1]
    assert last == f"Learnt by heart: exact match 1.00 on the one batch after {found['step']} steps."
    assert "steps  at most 5000, until the batch is learnt, " in done.stdout


def test_overfitting_without_learning_fails(tmp_path: Path) -> None:
    still = ("model=xtiny_arlm", "optimizer.lr=0", "callbacks.overfit_verdict.patience=2", "per_device_batch_size=4")
    done = xlm(
        tmp_path, "train", "job_name=t", "experiment=star_easy_arlm", "debug=overfit", *still,
        "trainer.val_check_interval=2", ok=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Not learnt: exact match 0.00 on the one batch, loss stands at " in done.stderr
    assert " after 4 steps (first step: " in done.stderr
    assert "the loss, which hardly fell" in done.stderr


# A minute of compiling. That the compiled form takes the place of loss_fn is a test of the harness.
@pytest.mark.slow
def test_compiling_the_loss_changes_no_result(tmp_path: Path) -> None:
    steps = ("trainer.max_steps=5", "model.dropout=0.0")
    xlm(tmp_path, "train", *SMALL, *steps, "job_name=plain")
    xlm(tmp_path, "train", *SMALL, *steps, "job_name=compiled", "compile=true")
    plain, compiled = weights(tmp_path / "runs/plain"), weights(tmp_path / "runs/compiled")
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=2e-5, rtol=1e-3)

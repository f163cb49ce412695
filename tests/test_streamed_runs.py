"""Runs on streams and mixtures: stopped or killed and continued with the same weights, and errors before they start."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from xlm.commands import train
from xlm.compose import load_config
from xlm.errors import ConfigError, XLMError
from xlm.utils.instantiate import clear_components

XLM = str(Path(sys.executable).with_name("xlm"))
MIXTURE = ("data_files.train={sums: sums.txt, words: words.jsonl}", "mixture.weights={sums: 3}")
SMALL = (
    "datamodule=own_text", "trainer.val_check_interval=8", "trainer.limit_val_batches=1", "per_device_batch_size=4",
    "global_batch_size=8", "trainer_strategy=cpu", "block_size=16", "loggers=debug", "test_after_training=false",
    "vocab_size=300", "trainer.log_every_n_steps=4", "~datamodule.dataset_managers.val.unconditional_prediction",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=5",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sums.txt").write_text("".join(f"{a} and {b} make {a + b}\n" for a in range(20) for b in range(20)))
    lines = (json.dumps({"text": f"word {n} of {n * n}"}) + "\n" for n in range(90))
    (tmp_path / "words.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(name: str, steps: int, *overrides: str, family: str = "mdlm") -> None:
    model = (f"model_type={family}", f"model=xtiny_{family}")
    train.run(load_config([*SMALL, *model, f"job_name={name}", f"trainer.max_steps={steps}", *overrides]))
    clear_components()


def weights(name: str) -> dict[str, torch.Tensor]:
    """The weights of a run and their averages."""
    checkpoint = torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
    averages = checkpoint.get("xlm_ema", {"average": {}})["average"]
    return {**checkpoint["state_dict"], **{f"average of {key}": value for key, value in averages.items()}}


def same_weights(one: str, other: str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged(name: str) -> list[tuple[str, str, str]]:
    """The values of training that don't depend on the machine."""
    with Path(f"runs/{name}/metrics.csv").open(newline="") as file:
        values = [(row["step"], row["name"], row["value"]) for row in csv.DictReader(file)]
    trained = [row for row in values if row[1].startswith("train/")]
    return [row for row in trained if "second" not in row[1] and not row[1].endswith("mfu")]


def test_a_stopped_run_on_a_streamed_mixture_continues_exactly(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = (*MIXTURE, "streaming=true", "mixture.schedule=[{from_step: 9, weights: {words: 3}}]")
    trained("whole", 16, *choice)
    assert "train/lm.sums/part_loss " in capsys.readouterr().out
    trained("stopped", 8, *choice)
    trained("stopped", 16, *choice)
    assert "Resuming from step 8." in capsys.readouterr().out
    assert same_weights("whole", "stopped")
    assert logged("whole") == logged("stopped")
    names = {name for _, name, _ in logged("whole")}
    assert names >= {f"train/lm.{part}/part_{what}" for part in ("sums", "words") for what in ("loss", "share")}
    # Nothing was prepared but the rows that are held out.
    assert {path.name.split("-")[2] for path in (folder / "data/cache").glob("sums-words-*")} == {"val", "test"}


def test_logging_the_parts_does_not_change_training() -> None:
    trained("rarely", 8, *MIXTURE)
    trained("often", 8, *MIXTURE, "trainer.log_every_n_steps=1")
    assert same_weights("rarely", "often")
    metrics = json.loads(Path("runs/often/results.json").read_text())["metrics"]
    assert "train/lm.sums/part_loss" in metrics
    trained("often", 8, *MIXTURE, "trainer.log_every_n_steps=1")  # complete: nothing is trained or lost
    assert json.loads(Path("runs/often/results.json").read_text())["metrics"] == metrics


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "trainer.max_epochs=2",
            "trainer.max_epochs is 2, but streams and mixtures have no end. Set trainer.max_steps",
        ),
        ("trainer.val_check_interval=0.5", "trainer.val_check_interval is 0.5, a share of an epoch, but streams"),
        ("trainer.max_steps=-1", "There is no limit to training (trainer.max_steps=-1), but streams"),
        ("mixture.temperature=0", "mixture.temperature is 0, and must be"),
        ("streaming=maybe", "streaming is 'maybe', and must be true or false"),
        ("shuffle_buffer=0", "shuffle_buffer is 0, and must be at least 1"),
    ],
)
def test_errors_before_anything_is_written(folder: Path, override: str, message: str) -> None:
    with pytest.raises(XLMError) as error:
        trained("wrong", 4, "data_files.train=sums.txt", "streaming=true", "tokenizer=null", override)
    assert message in str(error.value)
    assert not (folder / "runs/wrong").exists()


def test_a_run_is_not_continued_on_another_file(folder: Path) -> None:
    trained("one", 2, "data_files.train=sums.txt", "streaming=true")
    with (folder / "sums.txt").open("a") as file:
        file.write("one more\n")
    with pytest.raises(ConfigError, match=r"train.lm \(sums-train\): other content"):
        trained("one", 4, "data_files.train=sums.txt", "streaming=true")


def killed(after: str, *arguments: str) -> None:
    """Start a run, and kill all its processes once a checkpoint is there."""
    process = subprocess.Popen(
        [XLM, "train", *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not Path(after).exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


# Starts of whole processes take half a minute.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("data", "processes"), [(("data_files.train=sums.txt",), 1), (MIXTURE, 2)])
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(data: tuple[str, ...], processes: int) -> None:
    many = ("trainer_strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=2") if processes == 2 else ()
    common = [*SMALL, *data, *many, "streaming=true", "model_type=mlm", "model=xtiny_mlm", "trainer.max_steps=60",
              "num_dataloader_workers=2"]  # fmt: skip
    killed("runs/a/checkpoints/step-20.ckpt", *common, "job_name=a")
    for name in ("a", "b"):
        done = subprocess.run([XLM, "train", *common, f"job_name={name}"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert ("Resuming from step" in done.stdout) == (name == "a")
    assert same_weights("a", "b")
    assert [row for row in logged("a") if "part" in row[1]] == [row for row in logged("b") if "part" in row[1]]

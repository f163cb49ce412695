"""`xlm repeat`: the same bits from a run's record, and the reason where they are not the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from warm_xlm import warm_xlm
from workspace import ROOT, read_packages
from xlm.cli.main import main
from xlm.commands import train
from xlm.compose import load_config
from xlm.errors import TrainingInterrupted
from xlm.training.checkpoints import LastCheckpoint
from xlm.training.identical import compare_runs
from xlm.utils.instantiate import clear_components

FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
# An average, two batches a step, dropout of nothing but the data order and the family's own draws.
SMALL = (
    "trainer.max_steps=12", "trainer.val_check_interval=8", "trainer.log_every_n_steps=4", "per_device_batch_size=8",
    "global_batch_size=16", "ema_decay=0.9", "trainer_strategy=cpu", "loggers=debug",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=3", "datamodule.dataset_managers.train.lm.num_examples=160",
    *(
        f"datamodule.dataset_managers.{split}.{loader}.num_examples=16"
        for split in ("val", "test")
        for loader in ("lm", "prediction")
    ),
)  # fmt: skip


def words_of(family: str) -> list[str]:
    return [f"experiment=star_mini_{family}", f"model=xtiny_{family}", "job_name=x", *SMALL]


def end_at_step_5(self: LastCheckpoint, trainer: Trainer, module: object, outputs: object, *_: object) -> None:
    if trainer.global_step == 5:
        raise TrainingInterrupted(signal.SIGINT, None)


def trained(family: str, *overrides: str) -> None:
    train.run(load_config([*words_of(family), *overrides]))
    clear_components()


@pytest.mark.parametrize("family", ["ilm", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f != "ilm")])
def test_a_repeated_run_has_the_same_bits(folder: Path, family: str, capfd: pytest.CaptureFixture[str]) -> None:
    trained(family)
    with pytest.MonkeyPatch.context() as patch:
        # Within a logging interval and an accumulation, after the checkpoint of step 3.
        patch.setattr(LastCheckpoint, "on_train_batch_end", end_at_step_5)
        assert main(["repeat", "x"]) == 128 + signal.SIGINT
    assert {path.name for path in Path("runs/x_repeat/checkpoints").iterdir()} == {"step-3.ckpt", "best.ckpt"}
    clear_components()
    code = main(["repeat", "x"])
    record = json.loads(Path("runs/x_repeat/repeat.json").read_text())
    assert {part["name"]: part["differences"] for part in record["parts"] if part["differences"]} == {}
    assert code == 0
    assert record["is_equal"]
    assert "The repeat equals runs/x to the last bit." in capfd.readouterr().out
    assert {part["name"] for part in record["parts"] if part["num_compared"] > 0} == {
        "weights", "best weights", "state of training", "metrics.csv", "results.json", "predictions",
    }  # fmt: skip
    assert record["changes"] == record["reasons"] == []
    # The comparison sees the last bit of one weight, one logged value and one answer.
    shutil.copytree("runs/x", "runs/y")
    path = Path("runs/y/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    weights = next(iter(checkpoint["state_dict"].values()))
    weights.view(-1)[0] = torch.nextafter(weights.view(-1)[0], torch.tensor(9.0))
    torch.save(checkpoint, path)
    rows = Path("runs/y/metrics.csv").read_text().splitlines()
    place = next(number for number, row in enumerate(rows) if "accumulated_loss" in row)
    step, name, _, when = rows[place].split(",")
    Path("runs/y/metrics.csv").write_text("\n".join([*rows[:place], f"{step},{name},0.5,{when}", *rows[place + 1 :]]))
    file = next(Path("runs/y/predictions/test").rglob("*.jsonl"))
    file.write_text(file.read_text().replace('"prediction": "', '"prediction": "7 ', 1))
    parts = {part.name: part for part in compare_runs(Path("runs/x"), Path("runs/y"))}
    assert {name for name, part in parts.items() if not part.is_equal} == {"weights", "metrics.csv", "predictions"}
    assert parts["weights"].differences[0].startswith(f"1 of {parts['weights'].num_compared} differ, at most by ")
    assert f"first step {step}, {name}: " in parts["metrics.csv"].differences[0]
    assert "1 of 16 rows differ, first row 1" in parts["predictions"].differences[0]


def test_changed_training_data_are_named_before_anything_is_trained(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{a} + {b} =,{a + b}\n" for a in range(9) for b in range(9)]
    Path("pairs.csv").write_text("prompt,answer\n" + "".join(lines))
    own = ["datamodule=own_pairs", "data_files.train=pairs.csv", "model_type=arlm", "model=xtiny_arlm", "job_name=x"]
    sizes = ["block_size=8", "vocab_size=300", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    quick = ["trainer_strategy=cpu", "loggers=debug", "per_device_batch_size=8", "trainer.log_every_n_steps=1"]
    train.run(load_config([*own, *sizes, *quick]))
    clear_components()
    Path("pairs.csv").write_text("prompt,answer\n" + "".join(lines[:-1]))
    assert main(["repeat", "runs/x"]) == 1
    said = capfd.readouterr().err
    assert "The training data have changed since runs/x was trained" in said
    assert "nothing was trained" in said
    assert "examples → " in said
    assert not Path("runs/x_repeat").exists()
    # A folder from elsewhere runs nothing that its configuration names.
    file = Path("runs/x/config.yaml")
    file.write_text(file.read_text() + "own: {_target_: pathlib.Path.write_text}\n")
    assert main(["repeat", "runs/x"]) == 1
    said = capfd.readouterr().err
    assert "pathlib.Path.write_text" in said
    assert "trust=true" in said


def test_what_cannot_be_repeated_is_refused_in_one_sentence(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = folder / "runs/x"
    (run / "checkpoints").mkdir(parents=True)
    refused = {
        "Which run? xlm repeat runs/x.": [],
        "There is no run 'nothing' in runs": ["nothing"],
        "it has no record_train.json": ["x"],
    }
    for said, words in refused.items():
        (run / "metrics.csv").touch()
        assert main(["repeat", *words]) == 1
        assert said in capfd.readouterr().err
    (run / "record_train.json").write_text('{"command": ["xlm", "train", "job_name=x"]}')
    (run / "config.yaml").write_text("model: {}")
    (run / "checkpoints/last.ckpt").touch()
    assert main(["repeat", "runs/x"]) == 1
    error = capfd.readouterr().err
    assert "has not ended" in error
    assert "xlm train job_name=x" in error


def xlm(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*warm_xlm(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )


# Five commands.
@pytest.mark.slow
def test_a_killed_repeat_continues_and_changed_code_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "packages/xlm-core/tests/models", folder / "models")
    monkeypatch.setenv("XLM_MODELS_PATH", str(folder / "models"))
    longer = {"trainer.max_steps": 150, "trainer.val_check_interval": 150, "trainer.log_every_n_steps": 10}
    words = [
        "datamodule=star_mini", "model_type=bigram", "model=bigram", "job_name=x",
        *(word for word in SMALL if word.split("=")[0] not in longer), *(f"{k}={v}" for k, v in longer.items()),
    ]  # fmt: skip
    out, error = xlm("train", *words).communicate(timeout=120)
    assert (folder / "runs/x/results.json").is_file(), out + error
    repeat = xlm("repeat", "runs/x")
    try:
        deadline = time.monotonic() + 120
        while not list((folder / "runs/x_repeat/checkpoints").glob("step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        repeat.send_signal(signal.SIGKILL)
        repeat.communicate(timeout=60)
    assert not (folder / "runs/x_repeat/repeat.json").exists()
    again = xlm("repeat", "runs/x")
    out, error = again.communicate(timeout=120)
    assert "Resuming from step" in out
    assert again.returncode == 0, out + error
    # Its loss changes; that no version and no commit says so does not hide it.
    file = folder / "models/bigram/components_bigram.py"
    text = file.read_text()
    assert text.count("ignore_index=-100)") == 1
    file.write_text(text.replace("ignore_index=-100)", "ignore_index=-100, label_smoothing=0.01)"))
    changed = xlm("repeat", "runs/x", "job_name=other")
    out, error = changed.communicate(timeout=120)
    assert changed.returncode == 1, out + error
    assert "source files of bigram: " in out
    assert "The repeat differs from runs/x." in out
    found = json.loads((folder / "runs/other/repeat.json").read_text())
    assert not found["is_equal"]
    assert any("source files of bigram" in reason for reason in found["reasons"])

"""Rows of metrics.csv: the label is the number of finished steps, equal in undisturbed runs and after any kill."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xlm.commands import train
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.harness import Harness
from xlm.inference.session import Session
from xlm.training.checkpoints import AtomicCheckpointIO
from xlm.training.curves import collect
from xlm.training.train_log import read_metrics
from xlm.utils.instantiate import clear_components

SIZES = {"train.lm": 40, "val.lm": 6, "val.prediction": 6, "test.lm": 6, "test.prediction": 6}
# 10 batches an epoch, and two batches a step: the validation after every fifth batch may come in the middle of a step.
SMALL = (
    "experiment=star_easy_arlm", "model=xtiny_arlm", "per_device_batch_size=4", "global_batch_size=8",
    "trainer_strategy=cpu", "trainer.log_every_n_steps=3", "trainer.max_steps=12", "trainer.val_check_interval=5",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=2", "ema_decay=0.9",
    *(f"datamodule.dataset_managers.{place}.num_examples={size}" for place, size in SIZES.items()),
)  # fmt: skip


class Killed(BaseException):
    """Ends a run like a kill: nobody handles it, and no checkpoint is saved."""


def start(name: str, *overrides: str) -> None:
    try:
        train.run(load_config([*SMALL, *overrides, f"job_name={name}"]))
    finally:
        clear_components()


def rows(name: str) -> list[tuple[str, str, str]]:
    """Everything but the time: step, name and value, without speeds."""
    with Path(f"runs/{name}/metrics.csv").open(newline="") as file:
        found = [(row["step"], row["name"], row["value"]) for row in csv.DictReader(file)]
    return [row for row in found if not row[1].endswith(("_per_second", "/mfu"))]


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """Curves take half a second of each run, and nothing here reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw_curves", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def undisturbed(no_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()) as terminal:
            start("a")
        (folder / "terminal.txt").write_text(terminal.getvalue())
        yield folder / "runs/a"


def kill_in(patch: pytest.MonkeyPatch, owner: type, method: str, call: int, when: str) -> None:
    """Let a method end the run in its nth call, before or after it does its work."""
    original: Callable[..., Any] = getattr(owner, method)
    calls = 0

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            raise Killed
        result = original(self, *args, **kwargs)
        if calls == call:
            raise Killed
        return result

    patch.setattr(owner, method, dying)


KILLS = (
    (Harness, "training_step", 4, "after"),  # before any checkpoint, in the middle of a step
    (Harness, "on_validation_epoch_end", 1, "after"),  # in the middle of step 3; the rows are not written yet
    (AtomicCheckpointIO, "save_checkpoint", 4, "after"),  # of the best, in the validation after step 5, an epoch's end
    (AtomicCheckpointIO, "save_checkpoint", 3, "before"),
    (Harness, "on_test_epoch_end", 1, "after"),
)


def test_killed_runs_have_the_rows_of_an_undisturbed_one(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as outer:
        outer.chdir(undisturbed.parents[1])
        expected = rows("a")
        # Validation after batches 5, 10, …: after step 2 and half of the third, after step 5, ….
        assert sorted({int(step) for step, name, _ in expected if name.startswith("val/")}) == [2, 5, 7, 10]
        assert {int(step) for step, name, _ in expected if name.startswith("test/")} == {12}
        outer.chdir(tmp_path)
        for place in KILLS:
            with pytest.MonkeyPatch.context() as patch:
                kill_in(patch, *place)
                with pytest.raises(Killed):
                    start("a")
        start("a")
        assert rows("a") == expected
        results = [json.loads((run / "results.json").read_text()) for run in (undisturbed, tmp_path / "runs/a")]
        values = [{k: v for k, v in found["metrics"].items() if "_per_second" not in k} for found in results]
        assert values[0] == values[1]
        assert results[0]["step"] == results[1]["step"] == 12
        predictions = [
            {file.relative_to(run): file.read_bytes() for file in (run / "predictions").rglob("*.*")}
            for run in (undisturbed, tmp_path / "runs/a")
        ]
        assert predictions[0] == predictions[1]


def test_every_output_counts_alike(undisturbed: Path) -> None:
    logged = list(read_metrics(undisturbed / "metrics.csv"))
    assert {row[0] for row in logged} == {2, 3, 5, 6, 7, 9, 10, 12}

    # TensorBoard has the same values of the same steps, in single precision.
    events = EventAccumulator(str(undisturbed / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found = {
        (event.step, name, event.value)
        for name in events.Tags()["scalars"]
        if name not in ("epoch", "hp_metric")
        for event in events.Scalars(name)
    }
    assert found == {(step, name, float(np.float32(value))) for step, name, value, _ in logged}

    # The terminal: a line for each validation, and the results of the last step.
    text = (undisturbed.parents[1] / "terminal.txt").read_text()
    for step, name, value, _ in logged:
        if name.startswith("val/"):
            assert re.search(rf"^step {step}  .*{re.escape(name)} {re.escape(f'{value:.4g}')}( |$)", text, re.MULTILINE)
    assert "a, step 12\n" in text
    assert json.loads((undisturbed / "results.json").read_text())["step"] == 12

    # The curves are drawn from the same rows.
    points = {(step, value) for series in collect(undisturbed / "metrics.csv").values() for part in series.values()
              for step, value in part}  # fmt: skip
    assert points <= {(step, value) for step, _, value, _ in logged}
    assert {int(path.stem.rpartition("_")[2]) for path in (undisturbed / "predictions" / "val").rglob("*.jsonl")} == {
        2, 5, 7, 10
    }  # fmt: skip


def test_sharded_checkpoints_are_not_written_by_a_thread() -> None:
    cfg = load_config(
        ["experiment=star_easy_arlm", "trainer_strategy=fsdp2", "trainer.accelerator=cpu", "async_checkpoints=true"]
    )
    session: Any = Session(cfg, None, None, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="async_checkpoints=true cannot write the checkpoints of trainer_strategy=fs"):
        session.trainer([], [])

"""`xlm.train` from Python: the run of a command, in this process, which is afterwards as it was before."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import xlm
from xlm import flags
from xlm.errors import ConfigError
from xlm.reports.files import read_mapping
from xlm.training.progress import ProgressDisplay
from xlm.training.train_log import TrainLog
from xlm.utils.instantiate import has_component

DATA = "datamodule.dataset_managers"
SMALL = (
    "trainer_strategy=cpu", "loggers=debug", "per_device_batch_size=16", f"{DATA}.train.lm.num_examples=64",
    f"{DATA}.val.lm.num_examples=8", f"{DATA}.val.prediction.num_examples=4", f"{DATA}.test.lm.num_examples=8",
    f"{DATA}.test.prediction.num_examples=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1",
)  # fmt: skip


def words(family: str, name: str, *more: str) -> list[str]:
    return [f"experiment=star_mini_{family}", f"model=xtiny_{family}", f"job_name={name}", *SMALL, *more]


def state() -> tuple[Any, ...]:
    """What a run changes in its process."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("PL_")}
    return torch.get_rng_state().tolist(), list(sys.argv), variables, flags.DEBUG, has_component("tokenizer")


def test_runs_of_two_families_one_after_the_other(home: Path) -> None:
    before = state()
    runs = [xlm.train(*words(family, family, "trainer.max_steps=4")) for family in ("mlm", "arlm")]
    assert state() == before
    for family, run in zip(("mlm", "arlm"), runs, strict=True):
        assert isinstance(run, xlm.TrainingRun)
        assert run.folder == home / "runs" / family
        assert not run.interrupted
        assert {"val/lm/accumulated_loss", "test/prediction/exact_match"} <= run.metrics.keys()
        assert run.results["test/prediction/exact_match"]["n"] == 4
        assert run.metrics == {name: found["value"] for name, found in run.results.items()}
        lm = run.load(seed=1)
        assert isinstance(lm, xlm.TrainedModel)
        assert type(lm.model).__name__ == f"Rotary{family.upper()}"
        assert repr(run).startswith(f"TrainingRun(runs/{family}, test/lm/accumulated_loss ")
        shown = run._repr_html_()
        assert shown.startswith(f"<p>Run <code>runs/{family}</code></p><table>")
        assert '<img alt="curves"' in shown
    record = read_mapping(runs[0].folder / "record_train.json", [])
    assert record["command"] == ["xlm", "train", *words("mlm", "mlm", "trainer.max_steps=4")]


def test_ctrl_c_saves_and_returns_and_the_same_call_continues(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words("mlm", "stopped", "trainer.max_steps=6", "trainer.val_check_interval=6", "test_after_training=false")
    after_batch = TrainLog.on_train_batch_end

    def interrupting(log: TrainLog, trainer: Any, *rest: Any) -> None:
        after_batch(log, trainer, *rest)
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(TrainLog, "on_train_batch_end", interrupting)
        stopped = xlm.train(*asked)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (stopped.interrupted, stopped.metrics, stopped.results) == (True, {}, {})
    assert repr(stopped) == "TrainingRun(runs/stopped, interrupted; the same call of xlm.train continues it)"
    assert "interrupted" in stopped._repr_html_()
    assert stopped.load().source.parent == stopped.folder / "checkpoints"
    assert "Stopping after this step." in capsys.readouterr().err
    finished = xlm.train(*asked)
    assert "Resuming from step 3." in capsys.readouterr().out
    assert not finished.interrupted
    assert read_mapping(finished.folder / "results.json", [])["step"] == 6


def test_a_mistake_is_an_exception_with_its_message(home: Path) -> None:
    before = state()
    for asked, message in (
        ([["a=b"]], r"^\['a=b'\] is not a text such as .* Pass a list as xlm\.train\(\*words\)\.$"),
        (["train", *words("mlm", "x")], r"^'train' is not an override\. Write key=value"),
        (["-m", *words("mlm", "x")], r"^'-m' is not an override"),
        (words("mlm", "x", "job_type=eval"), r"^xlm\.train only trains, and cannot run job_type=eval\.$"),
        (words("mlm", "x", "optimizer.lr=0.1,0.2"), r"^optimizer\.lr=0\.1,0\.2 .* Call it once for each value\.$"),
        (words("mlm", "x", "optimizer.lrr=1"), r"^Key 'optimizer\.lrr' is not in the configuration"),
        (words("mlm", "x", "optimizer._target_=abc.Nix"), r"^Unable to find or instantiate abc\.Nix"),
    ):
        with pytest.raises(ConfigError, match=message):
            xlm.train(*asked)  # type: ignore[arg-type]
    assert state() == before
    assert issubclass(ConfigError, xlm.XLMError)


def test_a_notebook_trains_on_one_device(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(ConfigError, match=r"^The run would use 2 devices, but a notebook trains on one\."):
        xlm.train(*words("mlm", "two", "trainer.devices=2"))
    assert not (home / "runs/two").exists()


@pytest.mark.slow  # two more processes import everything
def test_a_script_on_two_processes_is_one_run(home: Path) -> None:
    asked = words("mlm", "ranks", "trainer.max_steps=3", "trainer_strategy=ddp", "trainer.accelerator=cpu")
    script = home / "script.py"
    script.write_text(f"import xlm\nprint('once')\nrun = xlm.train(*{asked!r}, 'trainer.devices=2')\nprint(run)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("once") == 1
    assert "TrainingRun(runs/ranks, test/lm/accumulated_loss " in done.stdout
    assert read_mapping(home / "runs/ranks/results.json", [])["step"] == 3


def test_the_names_of_the_package() -> None:
    code = "import xlm, sys; print(dir(xlm), [n for n in ('torch', 'hydra', 'lightning') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ["TrainedModel", "TrainingRun", "XLMError", "__version__", "load", "train"]
    assert done.stdout.strip() == f"{names} []"
    assert all(getattr(xlm, name) is not None for name in names)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """What a notebook would show, each with whether it replaces an output; the shell is IPython's own."""
    from IPython.core.interactiveshell import InteractiveShell

    found: list[tuple[str, bool]] = []
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    shell = InteractiveShell.instance(user_module=ModuleType("notebook"), user_ns={})
    shell.history_manager.enabled = False
    publish = shell.display_pub.publish

    def note(data: dict[str, str], *args: Any, update: bool = False, **more: Any) -> None:
        found.append((data["text/html"], update))

    shell.display_pub.publish = note
    yield found
    shell.display_pub.publish = publish
    InteractiveShell.clear_instance()


def test_the_bar_of_a_notebook_replaces_itself(
    published: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.training.progress.is_notebook", lambda: True)
    log = TrainLog()
    display = ProgressDisplay(log)
    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=40, callback_metrics={})
    display.on_train_start(trainer, None)  # type: ignore[arg-type]
    for step in range(1, 41):
        trainer.global_step = step
        log.latest = {"train/lm/accumulated_loss": 1 / step}
        display.on_train_batch_end(trainer, None, None, None, step)  # type: ignore[arg-type]
    display.on_train_end(trainer, None)  # type: ignore[arg-type]
    (first, is_update), *updates = published
    assert not is_update
    assert 'value="0" max="40"' in first
    assert 1 <= len(updates) < 40, "not for every step"
    assert all(is_update for _, is_update in updates)
    assert re.search(r'<progress value="40" max="40"></progress> step 40/40 · 0:00 · loss 0\.0250', updates[-1][0])

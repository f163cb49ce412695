"""`debug=profile` and `debug=lr_range` measure real steps, write their files, and leave no checkpoint."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from xlm import flags
from xlm.commands import train
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.training.lr_range import LearningRateRange, describe, evaluate
from xlm.training.profiling import PHASES, advice, without_notes
from xlm.utils.instantiate import clear_components

MODELS = Path(__file__).parents[1] / "models"
SMALL = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "trainer_strategy=cpu", "job_name=x",
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=20",
    "~datamodule.dataset_managers.val.prediction", "per_device_batch_size=8", "loggers=debug",
)  # fmt: skip


def run(work_dir: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XLM_CACHE_DIR", str(work_dir / "cache"))
    try:
        train.run(load_config([*SMALL, *overrides]))
    finally:
        clear_components()
        flags.set_flags({"DEBUG": False})
    assert not list(work_dir.rglob("*.ckpt"))
    return work_dir / "runs/debug/x"


def test_profile(work_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run(work_dir, monkeypatch, "debug=profile", "callbacks.profiler.num_timed_steps=3", "ema_decay=0.9")
    record = json.loads((folder / "profile.json").read_text())
    seconds = record["seconds_per_batch"]
    assert list(seconds) == list(PHASES)
    assert all(0 < value < 10 for value in seconds.values())
    operations = record["operations_per_batch"]
    assert [one["cpu_ms"] for one in operations] == sorted((one["cpu_ms"] for one in operations), reverse=True)
    # The regions are in the trace, once for each recorded batch; the profiler's own first batch is left out.
    events = json.loads((folder / "profile_trace.json").read_text())["traceEvents"]
    named = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {phase: named.count(f"## {phase} ##") for phase in ("forward", "backward", "optimizer")} == {
        "forward": 3, "backward": 3, "optimizer": 3
    }  # fmt: skip
    out, err = capfd.readouterr()
    assert "Where the" in out
    assert "ui.perfetto.dev" in out
    assert "Profiler" not in err
    with pytest.raises(ConfigError, match=r"debug=profile needs 19 batches, but trainer.max_steps=5 makes 5\."):
        run(work_dir, monkeypatch, "debug=profile", "trainer.max_steps=5")


def test_only_the_notes_of_the_profiler_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with without_notes():
        os.write(2, b"USDT:2026 SyncActivityProfilerHandler.cpp:52] profiler_start\nan error of the system\n")
    assert capfd.readouterr().err == "an error of the system\n"


def test_advice() -> None:
    slow_data = {"data": 3.0, "forward": 4.0, "backward": 2.0, "optimizer": 1.0}
    assert advice(slow_data) == (
        "Most of the time is in forward (network and loss): 40%. The network waits for data 30% of the time: set "
        "num_dataloader_workers=2 or more."
    )
    assert "batching=buckets" in advice({**slow_data, "data": 0.1})


def bowl(rate: float) -> float:
    """A loss that falls from 4 to 2 around the rate 0.1, and rises fast above it."""
    return 2 + 2 / (1 + (rate / 0.003) ** 1.5) + (rate / 0.4) ** 3


def test_the_suggestion_is_where_half_of_the_fall_is_done() -> None:
    """Also with noise, and without a shift to larger rates by the smoothing."""
    rates = [10 ** (-6 + 7 * step / 199) for step in range(180)]
    found = evaluate(rates, [bowl(rate) + 0.2 * math.sin(12.9 * n) for n, rate in enumerate(rates)], diverged=True)
    assert found.suggested == pytest.approx(0.003, rel=0.3)
    assert found.lowest == pytest.approx(min(rates, key=bowl), rel=1.0)
    assert found.diverged == rates[-1]
    assert describe(found, Path("x"))[0].startswith(f"Suggested learning rate: {found.suggested:g}. The loss has done")


def test_a_loss_that_only_rises_has_no_suggestion() -> None:
    found = evaluate([0.1, 1.0, 10.0], [1.0, 2.0, 30.0], diverged=True)
    assert (found.suggested, found.lowest) == (None, None)
    assert describe(found, Path("x"))[0].startswith("No learning rate lowered the loss.")


@pytest.mark.parametrize(("smallest", "largest", "has_fallen"), [(1e-2, 1e6, True), (1e38, 3e38, False)])
def test_lr_range(
    work_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    smallest: float,
    largest: float,
    has_fallen: bool,
) -> None:
    """With accumulated gradients, a schedule of the experiment, and rates at which the loss is not finite."""
    folder = run(
        work_dir, monkeypatch, "debug=lr_range", "trainer.max_steps=40", "global_batch_size=16", "optimizer=sgd",
        f"callbacks.lr_range.largest={largest}", f"callbacks.lr_range.smallest={smallest}",
        "++lr_scheduler.num_warmup_steps=5", "trainer.gradient_clip_val=null",
    )  # fmt: skip
    record = json.loads((folder / "lr_range.json").read_text())
    assert len(record["rates"]) == len(record["losses"]) < 40
    assert record["diverged"] is not None
    factor = (largest / smallest) ** (1 / 39)
    assert record["rates"] == pytest.approx([smallest * factor**step for step in range(len(record["rates"]))])
    assert all(math.isfinite(loss) for loss in record["losses"])
    assert (folder / "lr_range.png").stat().st_size > 1000
    assert (record["suggested"] is not None) == has_fallen
    says = f"optimizer.lr={record['suggested']:g}" if has_fallen else "No learning rate lowered the loss."
    assert says in capsys.readouterr().out


def test_a_range_from_above_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"callbacks.lr_range.smallest is 1.0, and must be below"):
        LearningRateRange("x", smallest=1.0, largest=0.1)

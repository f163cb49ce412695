"""The time of a run before it starts: a few of its steps are taken with other weights, and nothing is written."""

from __future__ import annotations

import copy

from lightning.pytorch import Callback
from omegaconf import DictConfig, open_dict

from xlm.compose.devices import num_devices
from xlm.inference.session import Session
from xlm.training.ema import ExponentialMovingAverage
from xlm.training.estimate import Measured, MeasureSteps
from xlm.training.rng import capture, restore

_NUM_WARMUP, _NUM_STEPS = 2, 5
_FEW = 10  # seconds


def quiet(cfg: DictConfig, num_steps: int) -> DictConfig:
    """The configuration for a few training steps that write nothing."""
    changed = copy.deepcopy(cfg)
    with open_dict(changed):
        changed.trainer.max_steps = num_steps
        changed.trainer.enable_checkpointing = False
        changed.trainer.limit_val_batches = 0
        changed.log_predictions = None
    return changed


def expected_time(session: Session) -> str:
    """The expected time of training in words; empty for several devices, whose processes would all have to start.

    Random states don't change. The session's data must be prepared.
    """
    trainer = session.cfg.trainer
    if trainer.num_nodes != 1 or num_devices(trainer.get("devices"), trainer.get("accelerator")) != 1:
        return ""
    found = _measured(session)
    steps = trainer.max_steps
    if steps <= 0 or not found.seconds:
        return ""
    return (
        f"about {duration(found.typical_seconds * steps)}, measured in {len(found.seconds)} steps, without validation"
    )


def _measured(session: Session) -> Measured:
    cfg = quiet(session.cfg, _NUM_WARMUP + _NUM_STEPS)
    trial = Session(cfg, session.tokenizer, session.datamodule, session.console)
    before, shown = capture(), session.datamodule.print_batch_fn
    session.datamodule.print_batch_fn = None
    try:
        measure = MeasureSteps(_NUM_WARMUP, counts_flops=False)
        averages: list[Callback] = [ExponentialMovingAverage(cfg.ema_decay)] if cfg.ema_decay else []
        trial.trainer([*averages, measure], []).fit(trial.harness(), datamodule=session.datamodule)
    finally:
        session.datamodule.print_batch_fn = shown
        restore(before)
    return measure.measured


def duration(seconds: float) -> str:
    """`0.123 s`, `12 s`, `3.4 min`, `2.1 h`, `1.5 d`."""
    if seconds < 10:
        return f"{seconds:.3f} s"
    for unit, size, below in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < below:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"

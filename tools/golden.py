"""The training losses of the first 50 steps of every family, on one CPU thread: what the checked-in curves contain.

hatch run golden             compare with tests/golden/*.json
hatch run golden --write     write them anew, after a change that is meant to change training
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workspace import ROOT, read_packages

FOLDER = ROOT / "tests" / "golden"
NUM_STEPS = 50
# Relative. Other vector instructions change the last bits (2e-7 after 50 steps); twice the weight decay, the smallest
# change that was tried, changes a curve by 2.5e-4 (see tests/test_golden.py).
TOLERANCE = 1e-4


def families() -> list[str]:
    """The families of this repository."""
    return [package.model for package in read_packages(ROOT).values() if package.model]


def words(family: str) -> list[str]:
    """The run whose losses are kept: small, with rows of different lengths, prompts, an average and an accumulation."""
    return [
        f"experiment=star_medium_{family}", f"model=xtiny_{family}", "job_name=golden", "loggers=debug",
        "trainer_strategy=cpu", "per_device_batch_size=8", "global_batch_size=16", "ema_decay=0.9",
        "datamodule.dataset_managers.train.lm.num_examples=512", f"trainer.max_steps={NUM_STEPS}",
        "trainer.limit_val_batches=0", "++trainer.enable_checkpointing=false", "model.num_layers=1", "model.d_model=32",
    ]  # fmt: skip


def curve(family: str, *overrides: str) -> list[float]:
    """The loss of every optimizer step, the mean over its micro-batches; only the cache of the data is written."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from xlm.compose import load_config
    from xlm.inference.session import start
    from xlm.training.ema import ExponentialMovingAverage
    from xlm.utils.instantiate import clear_components

    losses: list[float] = []
    waiting: list[float] = []

    class Losses(Callback):
        """Keeps the losses as the optimizer gets them."""

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            waiting.append(float(outputs["loss"]))
            if len(waiting) == trainer.accumulate_grad_batches:
                losses.append(sum(waiting) / len(waiting))
                waiting.clear()

    cfg = load_config([*words(family), *overrides])
    torch.set_num_threads(1)
    session = start(cfg)
    for split in ("val", "test", "predict"):
        session.datamodule.dataset_managers[split] = {}
    trainer = session.trainer([ExponentialMovingAverage(cfg.ema_decay), Losses()], [])
    trainer.fit(session.harness(), datamodule=session.datamodule)
    clear_components()
    return losses


def golden(family: str) -> list[float]:
    """The checked-in losses."""
    found: list[float] = json.loads((FOLDER / f"{family}.json").read_text(encoding="utf-8"))["losses"]
    return found


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference of two curves of the same length."""
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


@contextmanager
def in_an_empty_folder() -> Iterator[None]:
    """Work in a temporary folder, which also holds the prepared data."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or compare the curves; returns 1 if one is too far from its file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the files")
    parser.add_argument("families", nargs="*", help="families; by default all")
    options = parser.parse_args(argv)
    code = 0
    for family in options.families or families():
        with in_an_empty_folder():
            losses = curve(family)
        if options.write:
            from xlm.utils.run_record import hardware, versions

            FOLDER.mkdir(exist_ok=True)
            content = {"losses": losses, "command": words(family), "versions": versions(), "hardware": hardware()}
            (FOLDER / f"{family}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(f"{family}: {losses[0]:.4f} → {losses[-1]:.4f}, written")
            continue
        largest = distance(losses, golden(family))
        code |= largest > TOLERANCE
        print(f"{family}: {losses[0]:.4f} → {losses[-1]:.4f}, at most {largest:.1e} from the file ({TOLERANCE:.0e})")
    return code


if __name__ == "__main__":
    sys.exit(main())

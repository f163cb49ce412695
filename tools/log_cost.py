"""Measures what the training log costs: CPU microseconds a step, and seconds before the first.

python tools/log_cost.py [--steps N]
"""

from __future__ import annotations

import argparse
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch

from xlm.training.train_log import TrainLog


class Module:
    """As much of a Lightning module as the log looks at."""

    device = torch.device("cpu")

    def pop_metrics(self, stage: str) -> dict[str, float]:
        """No metrics."""
        return {}


def measure(num_steps: int) -> tuple[float, float]:
    """Microseconds of a step's hooks, on a batch of 64 × 40, and seconds of the hook before the first step."""
    optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
    trainer: Any = SimpleNamespace(
        global_step=0, log_every_n_steps=10, world_size=1, precision="32-true", loggers=[], optimizers=[optimizer]
    )
    module: Any = Module()
    batch = {name: torch.ones(64, 40, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    log = TrainLog()
    begun = time.perf_counter()
    log.on_train_start(trainer, module)
    at_start = time.perf_counter() - begun
    begun = time.process_time()
    for step in range(1, num_steps + 1):
        log.on_train_batch_start(trainer, module, batch, step)
        log.on_before_backward(trainer, module, torch.zeros(()))
        trainer.global_step = step
        log.on_train_batch_end(trainer, module, None, batch, step)
    return (time.process_time() - begun) / num_steps * 1e6, at_start


def main(argv: list[str] | None = None) -> int:
    """Print both numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    per_step, at_start = measure(parser.parse_args(argv).steps)
    print(f"{per_step:.1f} µs a step, {at_start:.2f} s at the start")
    return 0


if __name__ == "__main__":
    sys.exit(main())

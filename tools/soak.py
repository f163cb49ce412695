"""Trains, evaluates and generates again and again in one process: memory, descriptors and threads must stay flat.

python tools/soak.py FOLDER [--cycles 30] [--plot FILE.png]

A cycle trains a few steps (checkpoints in the background, TensorBoard, packed batches in every second one), evaluates
the run and generates from it, through the same entry as the command line. FOLDER gets the runs, each removed after its
cycle. The exit code is 1 if memory grows in the second half.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# MiB per cycle in the second half. Allocators keep freed blocks, so single cycles differ by a few MiB.
MOST_GROWTH = 0.25
# Cycles before descriptors and threads are compared: the first ones open what stays open.
WARM_UP = 3
COMMON = (
    "per_device_batch_size=8", "trainer.max_steps=6", "trainer.val_check_interval=3", "trainer_strategy=cpu",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=2", "trainer.log_every_n_steps=1", "ema_decay=0.9",
    "async_checkpoints=true", "data_files.train=sums.txt", "datamodule=own_text", "block_size=24", "vocab_size=300",
    "datamodule.dataset_managers.val.unconditional_prediction.num_examples=4", "job_name=soak",
)  # fmt: skip
FAMILIES = {"mlm": "predictor.max_steps=4", "mdlm": "predictor.num_steps=4"}


@dataclass
class Sample:
    """What the process holds after a cycle."""

    mib: float
    descriptors: int
    threads: int
    objects: int


def sample() -> Sample:
    """The state of this process, after collecting garbage."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return Sample(kib / 1024, len(os.listdir("/proc/self/fd")), threading.active_count(), len(gc.get_objects()))


def cycle(number: int) -> None:
    """Train, evaluate, generate, remove the run."""
    from xlm.cli.main import main

    family, steps = list(FAMILIES.items())[number % len(FAMILIES)]
    batching = ("batching=packed",) if number % 4 > 1 else ()
    train = ("train", f"model_type={family}", f"model=xtiny_{family}", steps, *COMMON, *batching)
    evaluate = ("eval", "runs/soak", "eval.split=val")
    generate = ("generate", "runs/soak", "generation.num_examples=2")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for command in (train, evaluate, generate):
            if main(list(command)) != 0:
                raise SystemExit(f"cycle {number}: {' '.join(command)} failed")
    shutil.rmtree("runs")


def growth(samples: Sequence[Sample]) -> float:
    """MiB per cycle in the second half, by least squares."""
    values = [found.mib for found in samples[len(samples) // 2 :]]
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((x - middle) ** 2 for x in range(len(values)))
    return sum((x - middle) * (y - mean) for x, y in enumerate(values)) / spread


def soak(cycles: int) -> list[Sample]:
    """Run the cycles in the current folder."""
    Path("sums.txt").write_text("".join(f"{a} and {b} make {a + b}\n" for a in range(12) for b in range(12)))
    samples = []
    for number in range(cycles):
        cycle(number)
        samples.append(sample())
        print(f"{number + 1:3}: {samples[-1]}", flush=True)
    return samples


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Draw the four lines, each from zero."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"mib": "resident memory, MiB", "descriptors": "open file descriptors", "threads": "threads",
              "objects": "objects of Python"}  # fmt: skip
    for index, (name, title) in enumerate(titles.items()):
        axes = figure.add_subplot(2, 2, index + 1)
        axes.plot(range(1, len(samples) + 1), [getattr(found, name) for found in samples], linewidth=1.5)
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("cycle of train, eval, generate", fontsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, plot, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    picture = options.plot and options.plot.absolute()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    began = time.process_time()
    samples = soak(options.cycles)
    if picture:
        plot(samples, picture)
    first, last = samples[min(WARM_UP, len(samples)) - 1], samples[-1]
    per_cycle = growth(samples)
    print(f"{len(samples)} cycles, {time.process_time() - began:.0f} s of CPU time")
    print(f"memory {per_cycle:+.3f} MiB per cycle in the second half")
    print(f"descriptors {first.descriptors} → {last.descriptors}, threads {first.threads} → {last.threads}")
    flat = per_cycle <= MOST_GROWTH and (first.descriptors, first.threads) == (last.descriptors, last.threads)
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())

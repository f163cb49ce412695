"""Kills training runs with SIGKILL at random moments, continues them, and compares the ends with undisturbed runs.

python tools/chaos.py FOLDER [--kills 20] [--cases arlm,mlm,ilm,mdlm] [--seed 0]

Every case has two batches per optimizer step and averaged weights; two cases have packed batches, and two write their
checkpoints in the background. Compared bit for bit: weights, their average and the state of the optimizer, the rows of
metrics.csv, predictions, results. Times and speeds are left out. FOLDER gets the runs and their output; the log of the
kills is printed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 60
COMMON = (
    "per_device_batch_size=4", "global_batch_size=8", "ema_decay=0.9", "trainer_strategy=cpu", "loggers=debug",
    "trainer.log_every_n_steps=3", "trainer.val_check_interval=17",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=4",
)  # fmt: skip
SIZES = {"train.lm": 200, "val.lm": 8, "val.prediction": 8, "test.lm": 8, "test.prediction": 8}
STARS = tuple(f"datamodule.dataset_managers.{place}.num_examples={size}" for place, size in SIZES.items())
TEXTS = (
    "datamodule=own_text", "data_files.train=sums.txt", "block_size=24", "vocab_size=300", "batching=packed",
    "datamodule.dataset_managers.val.unconditional_prediction.num_examples=4",
)  # fmt: skip
CASES = {
    "arlm": ("experiment=star_easy_arlm", *STARS),
    "mlm": ("model_type=mlm", *TEXTS, "predictor.max_steps=4", "async_checkpoints=true"),
    "ilm": ("experiment=star_easy_ilm", *STARS, "async_checkpoints=true"),
    "mdlm": ("model_type=mdlm", *TEXTS, "predictor.num_steps=4"),
}
MOMENTS = ("start", "save", "validation", "training")
# Values that depend on the machine, as the ends of their names.
SPEEDS = ("_per_second", "/mfu", "_seconds")


class Process:
    """A started command; `kill` ends the process that trains."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = None if pid == 0 else os.waitstatus_to_exitcode(status)
        return self._status

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.001)


def fork(folder: Path, arguments: Sequence[str]) -> Process:
    """Run `xlm` in a copy of this process, with its output in `output.txt`."""
    pid = os.fork()
    if pid:
        return Process(pid)
    code = 1
    try:
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        from xlm.cli.main import main

        sys.argv = [str(Path(sys.executable).with_name("xlm")), *arguments]
        code = main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


Launch = Callable[[Path, Sequence[str]], Any]


@dataclass
class Kill:
    """One kill: its moment, the seconds since the start, and the newest checkpoint at that time."""

    moment: str
    seconds: float
    checkpoint: str
    temporary: int

    def __str__(self) -> str:
        return (
            f"{self.moment:10} after {self.seconds:5.2f} s, newest {self.checkpoint or 'none':13} "
            f"{self.temporary} temporary file(s)"
        )


def arguments_of(case: str, steps: int = STEPS) -> list[str]:
    """The command that trains a case; the run's name is `a`."""
    return ["train", *CASES[case], f"model=xtiny_{case}", *COMMON, f"trainer.max_steps={steps}", "job_name=a"]


def prepare(folder: Path) -> Path:
    """Make the folder of a run, with its data."""
    folder.mkdir(parents=True)
    (folder / "sums.txt").write_text("".join(f"{a} and {b} make {a + b}\n" for a in range(15) for b in range(15)))
    return folder


def finish(launch: Launch, folder: Path, arguments: Sequence[str]) -> float:
    """Run a command to its end; returns its seconds."""
    began = time.perf_counter()
    process = launch(folder, arguments)
    while process.poll() is None:
        time.sleep(0.01)
    if process.poll() != 0:
        sys.exit(f"{folder}: exit code {process.poll()}; see output.txt there.")
    return time.perf_counter() - began


def disturb(
    launch: Launch, folder: Path, arguments: Sequence[str], moment: str, chance: random.Random, seconds: float
) -> Kill | None:
    """Start a run and kill it at a moment; None if it ended before.

    Args:
        seconds: how long an undisturbed run takes; the start is the first third of it.
    """
    run = folder / "runs/a"
    began, until = time.perf_counter(), chance.uniform(0, seconds / 3)
    nth, seen, delay = chance.randint(1, 3), set[str](), chance.uniform(0, 0.004)
    newest = _newest(run)
    process = launch(folder, arguments)
    while process.poll() is None:
        names = {path.name for path in _files(run / "checkpoints")}
        if moment == "start" and time.perf_counter() - began >= until:
            break
        if moment == "save":
            seen |= {name for name in names if name.endswith(".tmp")}
            if len(seen) >= nth:
                time.sleep(delay)
                break
        if moment == "validation" and any(_files(run / "predictions", "*.part")):
            time.sleep(delay * 10)
            break
        if moment == "training" and _newest(run) != newest:
            time.sleep(delay * 100)
            break
        time.sleep(0.0005)
    if process.poll() is not None:
        return None
    process.kill()
    temporary = sum(path.name.endswith(".tmp") for path in _files(run / "checkpoints"))
    return Kill(moment, time.perf_counter() - began, _newest(run), temporary)


def _files(folder: Path, pattern: str = "*") -> Iterator[Path]:
    return folder.rglob(pattern) if folder.is_dir() else iter(())


def _newest(run: Path) -> str:
    """The name of the periodic checkpoint with the most steps."""
    steps = [path.stem.removeprefix("step-") for path in _files(run / "checkpoints", "step-*.ckpt")]
    numbers = [int(step) for step in steps if step.isdigit()]
    return f"step-{max(numbers)}.ckpt" if numbers else ""


def outcome(run: Path) -> dict[str, str]:
    """A hash of each thing that must be equal."""
    import torch

    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    with (run / "metrics.csv").open(newline="") as file:
        rows = [(row["step"], row["name"], row["value"]) for row in csv.DictReader(file)]
    record = json.loads((run / "results.json").read_text())
    results = {name: value for name, value in record["results"].items() if not name.endswith(SPEEDS)}
    predictions = [
        (str(path.relative_to(run)), path.read_bytes()) for path in sorted(_files(run / "predictions", "*.*"))
    ]
    found = {
        "weights": checkpoint["state_dict"],
        "average": checkpoint.get("xlm_ema"),
        "optimizer": checkpoint["optimizer_states"],
        "metrics": [row for row in rows if not row[1].endswith(SPEEDS)],
        "predictions": predictions,
        "results": [record["step"], record["n"], results],
    }
    return {name: _hash(value) for name, value in found.items()}


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()[:12]


def _add(digest: Any, value: Any) -> None:
    """Feed nested values to a hash, tensors by their bytes."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(f"{key}:".encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        for part in value:
            _add(digest, part)
    elif hasattr(value, "numpy"):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    else:
        digest.update(repr(value).encode())


def leftovers(run: Path) -> list[str]:
    """Names of files that only a run in progress may have."""
    return [path.name for path in _files(run) if path.name.endswith((".tmp", ".part")) or path.name == "run.lock"]


def chaos(case: str, folder: Path, kills: int, seed: int, launch: Launch = fork, steps: int = STEPS) -> bool:
    """Disturb one case and compare; prints a log, and returns whether everything is equal."""
    chance = random.Random(f"{seed} {case}")
    command = arguments_of(case, steps)
    undisturbed, disturbed = prepare(folder / case / "undisturbed"), prepare(folder / case / "disturbed")
    seconds = finish(launch, undisturbed, command)
    print(f"{case}: {' '.join(command)}\n  undisturbed: {seconds:.1f} s", flush=True)
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(kills)]
    chance.shuffle(moments)
    done = 0
    for moment in moments:
        kill = disturb(launch, disturbed, command, moment, chance, seconds)
        if kill is None:
            print(f"  {moment}: the run ended before it was killed", flush=True)
            continue
        done += 1
        print(f"  kill {done:2}: {kill}", flush=True)
    finish(launch, disturbed, command)
    expected, found = outcome(undisturbed / "runs/a"), outcome(disturbed / "runs/a")
    left = leftovers(disturbed / "runs/a")
    for name, value in expected.items():
        print(f"  {name:11} {value}  {found[name]}  {'equal' if value == found[name] else 'DIFFERENT'}", flush=True)
    print(f"  left over: {', '.join(left) or 'nothing'}", flush=True)
    return done == kills and expected == found and not left


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20, help="of all cases together")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    cases = options.cases.split(",")
    # Imported once, for all copies.
    import xlm.commands.train
    import xlm.compose  # noqa: F401

    began = time.perf_counter()
    equal = [
        chaos(case, options.folder, options.kills // len(cases) + (number < options.kills % len(cases)), options.seed)
        for number, case in enumerate(cases)
    ]
    times = f"{os.times().children_user:.0f} s of CPU time, {time.perf_counter() - began:.0f} s in all"
    print(f"{sum(equal)} of {len(cases)} cases are equal; {times}.")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())

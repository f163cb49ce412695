"""Two processes that share a batch: this one is rank 0, and `python -m xlm.testing.processes FOLDER` is rank 1."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from xlm.testing.properties import Violation
from xlm.testing.samples import Sample

if TYPE_CHECKING:
    from xlm.harness import Harness
    from xlm.testing.subject import Subject

TIMEOUT = timedelta(seconds=60)
START_SECONDS = 120.0
TASK, READY, DONE, STORE = "task.pt", "ready", "done.pt", "store"


@dataclass(frozen=True)
class Step:
    """What one process saw: the loss of its rows, and the gradients that all processes agreed on."""

    loss: float
    gradients: dict[str, torch.Tensor]


class _Scored(nn.Module):
    """The loss of a batch as a module's forward, which is what DDP wraps."""

    def __init__(self, harness: Harness, sample: Sample) -> None:
        super().__init__()
        self.harness = harness
        self.sample = sample

    def forward(self, batch: Any) -> Any:
        return self.sample.run(self.harness, batch)["loss"]


def _train(harness: Harness, sample: Sample, batch: Any) -> Step:
    """Twice, because DDP notices parameters that were left out only when the next batch comes."""
    wrapped = DistributedDataParallel(_Scored(harness, sample))
    for _ in range(2):
        harness.zero_grad()
        loss = wrapped(batch)
        loss.backward()
    grads = {name: p.grad.clone() for name, p in harness.model.named_parameters() if p.grad is not None}
    return Step(loss.item(), grads)


@contextmanager
def _group(folder: Path, rank: int) -> Iterator[None]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / STORE}", rank=rank, world_size=2, timeout=TIMEOUT
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def run_pair(subject: Subject, harness: Harness, sample: Sample, halves: list[Any]) -> list[Step]:
    """One step of both processes, each with its half of the batch; Violation with what the second says if it dies."""
    from xlm.testing.subject import SEED

    folder = subject.folder / "pair"
    folder.mkdir()
    task = {
        "cfg": OmegaConf.to_yaml(subject.bare),
        "environ": {name: value for name, value in subject.environ.items() if name.startswith("XLM_")},
        "cwd": str(subject.cwd),
        "state_dict": harness.state_dict(),
        "batch": halves[1],
        "place": sample.place,
        "seed": SEED,
    }
    torch.save(task, folder / TASK)
    command = [sys.executable, "-m", "xlm.testing.processes", str(folder)]
    with open(folder / "errors", "w") as errors, subprocess.Popen(command, stdout=errors, stderr=errors) as second:
        try:
            _wait_for(folder / READY, second)
            with _group(folder, 0):
                try:
                    ours = _train(harness, sample, halves[0])
                except RuntimeError as error:
                    second.wait(timeout=TIMEOUT.total_seconds())
                    raise Violation(_said(folder) or str(error).splitlines()[0]) from error
            second.wait(timeout=TIMEOUT.total_seconds())
        finally:
            second.kill()
    if not (folder / DONE).is_file():
        raise Violation(f"The second process failed: {_said(folder)}")
    theirs = torch.load(folder / DONE, weights_only=True)
    return [ours, Step(theirs["loss"], theirs["gradients"])]


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the other process is ready for the group; joining one that never comes would block."""
    deadline = time.monotonic() + START_SECONDS
    while not file.exists():
        if process.poll() is not None:
            raise Violation(f"The second process failed: {_said(file.parent)}")
        if time.monotonic() > deadline:
            raise Violation(f"The second process was not ready after {START_SECONDS:.0f} seconds.")
        time.sleep(0.05)


def _said(folder: Path) -> str:
    """The last line that the second process wrote."""
    lines = (folder / "errors").read_text().strip().splitlines()
    return lines[-1] if lines else ""


def second(folder: Path) -> None:
    """Rank 1: builds the same harness from the configuration, takes the weights, and joins."""
    from xlm.compose import register_resolvers
    from xlm.external_models import activate, discover
    from xlm.inference.session import start
    from xlm.training.rng import random_state_of

    task = torch.load(folder / TASK, weights_only=False)
    found = discover({**os.environ, **task["environ"]}, Path(task["cwd"]))
    activate(found.models, folders=found.folders)
    register_resolvers()
    session = start(OmegaConf.create(task["cfg"]))
    with random_state_of(task["seed"]):
        harness = session.harness().eval()
    harness.configure_components()
    harness.load_state_dict(task["state_dict"])
    (folder / READY).touch()
    with _group(folder, 1):
        step = _train(harness, Sample(task["place"], "loss", None, ()), task["batch"])
    torch.save({"loss": step.loss, "gradients": step.gradients}, folder / DONE)


if __name__ == "__main__":
    second(Path(sys.argv[1]))

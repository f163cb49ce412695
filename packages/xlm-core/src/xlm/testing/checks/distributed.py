"""Checks two processes that share a batch: rank 0 is this one, rank 1 runs this module as a program."""

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
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from xlm.compose import register_resolvers
from xlm.external_models import activate, discover
from xlm.harness import Harness
from xlm.inference.session import start
from xlm.testing.checks.training import TOLERANCE, loss_and_gradients
from xlm.testing.compare import near
from xlm.testing.contract import Violation, require
from xlm.testing.model_under_test import SEED, ModelUnderTest
from xlm.testing.samples import Sample
from xlm.training.rng import random_state_of

TIMEOUT = timedelta(seconds=60)
START_SECONDS = 120.0
TASK, READY, DONE, STORE = "task.pt", "ready", "done.pt", "store"


def two_processes(model: ModelUnderTest) -> None:
    """Under DDP, half a batch in each process gives the losses and mean gradients that one process gives."""
    sample = model.loss_samples[0]
    harness = model.perturbed_harness().float()
    half = len(sample.examples) // 2
    halves = [sample.batch(harness, sample.examples[:half]), sample.batch(harness, sample.examples[half:])]
    expected = [loss_and_gradients(harness, sample, batch) for batch in halves]
    found = run_pair(model, harness, sample, halves)
    for rank in range(2):
        require(
            near(found[rank].loss, expected[rank][0], TOLERANCE),
            f"The loss of the same rows is {expected[rank][0]} in one process, and {found[rank].loss} in rank {rank} "
            "of two.",
        )
        for name, grad in found[rank].gradients.items():
            mean = (expected[0][1][name] + expected[1][1][name]) / 2
            require(
                torch.allclose(grad, mean, rtol=1e-3, atol=1e-5),
                f"The gradient of {name} in rank {rank} of 2 is not the mean of the gradients of the two halves.",
            )


@dataclass(frozen=True)
class Step:
    """The loss of one process's rows, and the gradients averaged over all processes."""

    loss: float
    gradients: dict[str, torch.Tensor]


class _LossModule(nn.Module):
    """The loss of a batch as a module's forward, which DDP can wrap."""

    def __init__(self, harness: Harness, sample: Sample) -> None:
        super().__init__()
        self.harness = harness
        self.sample = sample

    def forward(self, batch: Any) -> Any:
        return self.sample.run(self.harness, batch)["loss"]


def _train(harness: Harness, sample: Sample, batch: Any) -> Step:
    """Two passes, because DDP detects unused parameters only at the second."""
    wrapped = DistributedDataParallel(_LossModule(harness, sample))
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


def run_pair(model: ModelUnderTest, harness: Harness, sample: Sample, halves: list[Any]) -> list[Step]:
    """One step of both processes, each with half of the batch; Violation with the error of rank 1 if it fails."""
    folder = model.folder / "pair"
    folder.mkdir()
    task = {
        "cfg": OmegaConf.to_yaml(model.bare_cfg),
        "environ": {name: value for name, value in model.environ.items() if name.startswith("XLM_")},
        "cwd": str(model.cwd),
        "state_dict": harness.state_dict(),
        "batch": halves[1],
        "place": sample.place,
        "seed": SEED,
    }
    torch.save(task, folder / TASK)
    command = [sys.executable, "-m", "xlm.testing.checks.distributed", str(folder)]
    with open(folder / "errors", "w") as errors, subprocess.Popen(command, stdout=errors, stderr=errors) as second:
        try:
            _wait_for(folder / READY, second)
            with _group(folder, 0):
                try:
                    ours = _train(harness, sample, halves[0])
                except RuntimeError as error:
                    second.wait(timeout=TIMEOUT.total_seconds())
                    raise Violation(_last_line(folder) or str(error).splitlines()[0]) from error
            second.wait(timeout=TIMEOUT.total_seconds())
        finally:
            second.kill()
    if not (folder / DONE).is_file():
        raise Violation(f"The second process failed: {_last_line(folder)}")
    theirs = torch.load(folder / DONE, weights_only=True)
    return [ours, Step(theirs["loss"], theirs["gradients"])]


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the other process is ready, because joining the group blocks until both have joined."""
    deadline = time.monotonic() + START_SECONDS
    while not file.exists():
        if process.poll() is not None:
            raise Violation(f"The second process failed: {_last_line(file.parent)}")
        if time.monotonic() > deadline:
            raise Violation(f"The second process was not ready after {START_SECONDS:.0f} seconds.")
        time.sleep(0.05)


def _last_line(folder: Path) -> str:
    """The last line that the second process wrote."""
    lines = (folder / "errors").read_text().strip().splitlines()
    return lines[-1] if lines else ""


def run_rank_1(folder: Path) -> None:
    """Rank 1: build the same harness from the configuration, load the weights, and join the group."""
    task = torch.load(folder / TASK, weights_only=True)
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
    run_rank_1(Path(sys.argv[1]))

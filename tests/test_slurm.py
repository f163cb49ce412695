"""Runs on a SLURM cluster, imitated by tools/fake_slurm.py: warned, requeued, continued; scripts and launchers."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from docs_blocks import read_blocks
from fake_slurm import Job, calls, install
from warm_xlm import warm_xlm
from workspace import ROOT

pytestmark = pytest.mark.timeout(600)
BIN = Path(sys.executable).parent
SMALL = (
    "experiment=star_easy_arlm", "model=xtiny_arlm", "per_device_batch_size=16", "trainer_strategy=cpu",
    "datamodule.dataset_managers.train.lm.num_examples=400", "datamodule.dataset_managers.val.lm.num_examples=20",
    "~datamodule.dataset_managers.val.prediction", "loggers=debug", "test_after_training=false",
    "trainer.max_steps=80", "trainer.val_check_interval=40",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=7",
)  # fmt: skip


class Cluster:
    """A folder with a fake cluster, and `xlm` warm on its PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "slurm"
        programs = install(str(self.root))
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "XLM_"))}
        self.environ |= {"OMP_NUM_THREADS": "1", "PATH": f"{programs}:{BIN}:{os.environ['PATH']}"}
        warm = Path(programs) / "xlm"
        warm.write_text(f'#!/bin/sh\nexec {shlex.join(warm_xlm(self.environ))} "$@"\n')
        warm.chmod(0o755)

    def run(self, *command: str, ok: bool = True) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=400, check=False
        )
        assert (done.returncode == 0) == ok, f"{done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return done.stdout + done.stderr

    def log(self) -> str:
        return "\n".join(path.read_text() for path in [*self.folder.glob("slurm-*.out"), *self.root.glob("*.log")])

    def wait(self, key: str, *states: str) -> Job:
        job, until = Job(str(self.root), key), time.monotonic() + 300
        while job.read("state") not in states:
            assert time.monotonic() < until, self.log()
            time.sleep(0.05)
        return job

    def wait_for(self, path: Path) -> None:
        until = time.monotonic() + 300
        while not path.exists():
            assert time.monotonic() < until, self.log()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster with the script of the documentation, and a run `alone` that nothing disturbed."""
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    blocks = [block for block in read_blocks(ROOT / "docs/guide/slurm.md") if block.notes.get("file") == "train.sbatch"]
    (found.folder / "train.sbatch").write_text(blocks[0].code)
    found.run("xlm", "train", *SMALL, "job_name=alone")
    return found


def assert_same_weights(one: Path, other: Path) -> None:
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_warned_job_is_requeued_and_ends_with_the_weights_of_one_that_was_not(cluster: Cluster) -> None:
    printed = cluster.run("sbatch", "train.sbatch", *SMALL, "job_name=warned")
    key = printed.split()[-1]
    options = cluster.wait(key, "RUNNING").read("options")
    assert all(f'"{said}"' in options for said in ("USR1@300", "12:00:00", "requeue", "append", "my-lab"))
    run = cluster.folder / "runs/warned"
    cluster.wait_for(run / "checkpoints/step-7.ckpt")
    cluster.run("scancel", "--signal=USR1", key)
    cluster.wait(key, "COMPLETED")
    assert calls(str(cluster.root), "scontrol") == [["requeue", key]]
    output = (cluster.folder / f"slurm-{key}.out").read_text()
    assert f"SLURM job {key} is in the queue again" in output
    assert "Resuming from step" in output
    assert "Traceback" not in output
    assert_same_weights(run, cluster.folder / "runs/alone")


@pytest.mark.slow  # two more starts, for a message
def test_a_job_that_may_not_be_requeued_says_so_and_continues_when_it_is_submitted_again(cluster: Cluster) -> None:
    words = ("train.sbatch", *SMALL, "job_name=refused")
    key = cluster.run("sbatch", "--no-requeue", *words).split()[-1]
    cluster.wait_for(cluster.folder / "runs/refused/checkpoints/step-7.ckpt")
    cluster.run("scancel", "--signal=USR2", key)
    cluster.wait(key, "FAILED")
    output = (cluster.folder / f"slurm-{key}.out").read_text()
    assert f"SLURM did not requeue job {key}: Requested operation is presently disabled." in output
    key = cluster.run("sbatch", *words).split()[-1]
    cluster.wait(key, "COMPLETED")
    assert_same_weights(cluster.folder / "runs/refused", cluster.folder / "runs/alone")


@pytest.mark.slow  # starts of processes that are not warm: four of them, with torch each
def test_two_tasks_stop_after_the_same_step(cluster: Cluster) -> None:
    two = ("trainer_strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2")
    small = [text for text in SMALL if text != "trainer_strategy=cpu"]
    sent = ("--nodes=2", "--ntasks-per-node=1", "train.sbatch", *small, *two)
    undisturbed = cluster.run("sbatch", *sent, "job_name=two").split()[-1]
    cluster.wait(undisturbed, "COMPLETED")
    key = cluster.run("sbatch", *sent, "job_name=two_warned").split()[-1]
    cluster.wait_for(cluster.folder / "runs/two_warned/checkpoints/step-7.ckpt")
    # It reaches the ranks at different times.
    for pid in reversed(Job(str(cluster.root), key).read("tasks").split()):
        os.kill(int(pid), signal.SIGUSR1)
        time.sleep(0.1)
    cluster.wait(key, "COMPLETED")
    output = (cluster.folder / f"slurm-{key}.out").read_text()
    assert output.count("is in the queue again") == 1
    assert "Resuming from step" in output
    assert_same_weights(cluster.folder / "runs/two_warned", cluster.folder / "runs/two")
    wrong = cluster.run("sbatch", "--ntasks-per-node=2", *sent[2:], "job_name=wrong").split()[-1]
    cluster.wait(wrong, "FAILED")
    assert (
        "srun started 2 tasks on 1 node, but trainer.devices=1" in (cluster.folder / f"slurm-{wrong}.out").read_text()
    )


@pytest.mark.slow  # submitit starts Python for each job
def test_the_launcher_submits_single_runs_and_sweeps_and_continues_them(cluster: Cluster) -> None:
    launcher = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.account=lab")
    started = subprocess.Popen(
        ["xlm", "train", *SMALL, "trainer.devices=1", *launcher, "job_name=sent"],
        cwd=cluster.folder, env=cluster.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    cluster.wait_for(cluster.folder / "runs/sent/checkpoints/step-7.ckpt")
    key = calls(str(cluster.root), "sacct")[-1][-1]
    cluster.run("scancel", key, "--signal", "USR2")
    printed, _ = started.communicate(timeout=300)
    assert started.returncode == 0, printed + cluster.log()
    options = Job(str(cluster.root), key).read("options")
    assert all(f'"{said}"' in options for said in ("USR2@300", "gpu", "lab", "1440"))
    assert ["requeue", key] in calls(str(cluster.root), "scontrol")
    assert_same_weights(cluster.folder / "runs/sent", cluster.folder / "runs/alone")

    short = [text for text in SMALL if not text.startswith("trainer.max_steps")]
    sweep = ("-m", *short, "trainer.max_steps=2", "trainer.devices=1", "optimizer.lr=0.001,-1", *launcher)
    printed = cluster.run("xlm", "train", *sweep, "paths.log_dir=runs/sweep", ok=False)
    assert "Error: 1 of 2 runs failed. The others are complete." in printed
    assert "optimizer.lr: Invalid learning rate: -1" in printed
    assert "Traceback" not in printed
    assert len(list((cluster.folder / "runs/sweep").glob("*/checkpoints/last.ckpt"))) == 1

"""Where the ranks in a SLURM allocation come from; intervals of the Trainer."""

from __future__ import annotations

import os
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import OmegaConf

from xlm.errors import ConfigError
from xlm.inference.session import NoProfiler, Session, SlurmTasks, check_trainer, own_environment

TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4"}, LightningEnvironment),  # a shell of salloc
        ({"SLURM_NTASKS": "1"}, LightningEnvironment),
        ({"SLURM_NTASKS": "4", **TASK}, LightningEnvironment),  # the script of sbatch
        ({"SLURM_NTASKS": "4", **TASK, "SLURM_STEP_NUM_TASKS": "1"}, LightningEnvironment),  # a shell of salloc
        ({"SLURM_NTASKS": "1", **TASK, "SLURM_STEP_NUM_TASKS": "1"}, LightningEnvironment),  # may start others itself
        ({"SLURM_NTASKS": "4", **TASK, "SLURM_STEP_NUM_TASKS": "4"}, SlurmTasks),
        ({"SLURM_NTASKS": "4", **TASK, "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_NAME": "bash"}, SlurmTasks),
        ({"SLURM_NTASKS": "", "SLURM_JOB_ID": "3"}, LightningEnvironment),
    ],
)
def test_only_tasks_of_srun_take_their_rank_from_slurm(environ: dict[str, str], expected: type | None) -> None:
    assert [type(found) for found in own_environment(environ)] == ([] if expected is None else [expected])


def test_an_allocation_of_several_tasks_without_srun_is_said(caplog: pytest.LogCaptureFixture) -> None:
    own_environment({"SLURM_NTASKS": "4"})
    assert "has 4 tasks, but xlm was started without srun: it runs alone" in caplog.text


@pytest.mark.parametrize(("devices", "nodes", "is_right"), [(2, 2, True), (4, 1, False), (1, 2, False), (2, 1, False)])
def test_the_tasks_of_srun_must_be_the_devices(
    monkeypatch: pytest.MonkeyPatch, devices: int, nodes: int, is_right: bool
) -> None:
    # Also with `--ntasks=4`, without SLURM_NTASKS_PER_NODE.
    for name, value in {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_STEP_NUM_TASKS": "4", **TASK}.items():
        monkeypatch.setenv(name, value)
    (environment,) = own_environment(os.environ)
    if is_right:
        environment.validate_settings(devices, nodes)
    else:
        with pytest.raises(ConfigError, match=r"srun started 4 tasks on 2 nodes, .* Set trainer\.devices=2 "):
            environment.validate_settings(devices, nodes)


def test_a_process_of_torchrun_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert own_environment({"SLURM_NTASKS": "4"}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("val_check_interval", 0), ("val_check_interval", -0.5), ("check_val_every_n_epoch", 0), ("log_every_n_steps", -1),
     ("gradient_clip_val", -1.0)],
)  # fmt: skip
def test_lengths_that_mean_nothing(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{name} is {value}, and must be"):
        check_trainer(OmegaConf.create({name: value}))
    check_trainer(OmegaConf.create({"val_check_interval": None, "gradient_clip_val": 0, "log_every_n_steps": 0}))


def test_hooks_are_not_timed_unless_a_profiler_is_chosen() -> None:
    trainer = {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "enable_checkpointing": False}
    session: Any = Session(OmegaConf.create({"trainer": trainer}), *[None] * 3)  # type: ignore[list-item]
    found = session.trainer([], []).profiler
    assert isinstance(found, NoProfiler)
    with found.profile("a hook"), found.profile("another in it"):
        pass
    session.cfg.trainer.profiler = "simple"
    assert isinstance(session.trainer([], []).profiler, SimpleProfiler)

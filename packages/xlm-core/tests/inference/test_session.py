"""Which processes in a Slurm allocation are tasks of `srun`; intervals of the Trainer."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from xlm.errors import ConfigError
from xlm.inference.session import check_trainer, own_environment

TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    ("environ", "is_own"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, True),  # a shell of salloc
        ({"SLURM_NTASKS": "1"}, True),
        ({"SLURM_NTASKS": "4", **TASK}, True),  # the script of sbatch
        ({"SLURM_NTASKS": "4", **TASK, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}, True),  # its shell
        ({"SLURM_NTASKS": "1", **TASK}, False),  # one task is one process, which Slurm may requeue
        ({"SLURM_NTASKS": "4", **TASK, "SLURM_STEP_NUM_TASKS": "4"}, False),  # srun
        ({"SLURM_NTASKS": "", "SLURM_JOB_ID": "3"}, True),
    ],
)
def test_processes_that_srun_did_not_start_run_alone(environ: dict[str, str], is_own: bool) -> None:
    assert bool(own_environment(environ)) == is_own


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

"""What SLURM's variables say: tasks of `srun`, batch jobs, shells of people."""

from __future__ import annotations

import signal

import pytest

from xlm.utils.rank_zero import get_rank
from xlm.utils.slurm import batch_job, is_task, num_tasks, warning_signals

TASK = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "12"}
PTY = {**TASK, "SLURM_PROCID": "0", "SLURM_PTY_PORT": "4242", "SLURM_TASK_PID": "100"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TASK, True),
        ({**TASK, "SLURM_STEP_NUM_TASKS": "1"}, False),  # a shell in the job
        ({name: value for name, value in TASK.items() if name != "SLURM_STEP_NUM_TASKS"}, False),
        ({**TASK, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({**TASK, "SLURM_NTASKS": "four"}, False),
        (PTY, False),  # a program in the shell of srun --ntasks=4 --pty bash
        ({**PTY, "SLURM_TASK_PID": "7"}, True),  # srun in that shell
        ({}, False),
    ],
)
def test_tasks_of_srun(environ: dict[str, str], expected: bool) -> None:
    assert is_task(environ, pid=7) is expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "star"}, "12"),
        ({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}, "12_2"),
        ({"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "interactive"}, None),
        ({"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "bash"}, None),
        (PTY, None),
        ({}, None),
    ],
)
def test_only_batch_jobs_are_requeued(environ: dict[str, str], expected: str | None) -> None:
    assert batch_job(environ) == expected
    assert bool(warning_signals(environ)) == (expected is not None)
    if expected is not None:
        assert warning_signals(environ) == (signal.SIGUSR1, signal.SIGUSR2)


def test_the_rank_in_a_shell_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert get_rank() == 1  # Lightning started it from the shell
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    assert get_rank() == 2
    assert num_tasks(TASK) == 4

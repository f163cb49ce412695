"""What SLURM's variables say about this process: a task that `srun` started, a batch job, or a person's shell."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

# Names that people give to jobs that only open a shell; SLURM itself names those of salloc "interactive".
_SHELLS = ("bash", "interactive", "sh", "zsh")
_WARNINGS = ("SIGUSR1", "SIGUSR2")


def num_tasks(environ: Mapping[str, str]) -> int:
    """The number of tasks that SLURM_NTASKS gives; 0 if there is none."""
    text = environ.get("SLURM_NTASKS", "")
    return int(text) if text.isdecimal() else 0


def is_task(environ: Mapping[str, str], pid: int | None = None) -> bool:
    """Whether `srun` started this process as one of several tasks.

    A shell of `salloc` and the script of `sbatch` have SLURM_NTASKS and SLURM_PROCID too, and so has the shell of
    `srun --ntasks=4 --pty bash`, which runs on one of the four tasks.
    """
    count = num_tasks(environ)
    started = "SLURM_PROCID" in environ and environ.get("SLURM_STEP_NUM_TASKS") == str(count)
    return count > 1 and started and not _is_in_terminal(environ, pid)


def _is_in_terminal(environ: Mapping[str, str], pid: int | None) -> bool:
    """Whether this process was started in the shell of `srun --pty`, and not by another `srun` in it."""
    own = os.getpid() if pid is None else pid
    return "SLURM_PTY_PORT" in environ and environ.get("SLURM_TASK_PID") != str(own)


def batch_job(environ: Mapping[str, str]) -> str | None:
    """The id of the batch job of this process as `scontrol` reads it (`12_3` in an array); None in a person's shell."""
    job = environ.get("SLURM_JOB_ID")
    if not job or environ.get("SLURM_JOB_NAME") in _SHELLS or "SLURM_PTY_PORT" in environ:
        return None
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ.get('SLURM_ARRAY_TASK_ID', '0')}" if array else job


def warning_signals(environ: Mapping[str, str]) -> tuple[int, ...]:
    """The signals with which SLURM announces the end of a batch job (`--signal=USR1@120`); none outside one."""
    if batch_job(environ) is None:
        return ()
    return tuple(int(getattr(signal, name)) for name in _WARNINGS if hasattr(signal, name))

"""Requeues the SLURM job of a training run that was warned before its time limit, so that the run continues."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from xlm.errors import TrainingInterrupted
from xlm.utils.rank_zero import is_first_process
from xlm.utils.slurm import batch_job, warning_signals

_SCONTROL_SECONDS = 60


@contextlib.contextmanager
def requeueing() -> Iterator[None]:
    """While entered, SIGUSR1 or SIGUSR2 in a SLURM batch job ends the run and puts the job back into the queue.

    During training, the run first finishes its step and saves a checkpoint (`GracefulSignals`, `LastCheckpoint`).
    Before and after it, the run ends at once: nothing is lost. SIGTERM ends a run without requeueing, since SLURM
    sends it for `scancel` too, and requeues preempted jobs itself.

    A handler that was there before (submitit's, in a job of its launcher) is called instead of `scontrol requeue`.
    """
    signals = warning_signals(os.environ) if threading.current_thread() is threading.main_thread() else ()
    before = {signum: signal.signal(signum, _stop) for signum in signals}
    try:
        yield
    except TrainingInterrupted as stop:
        _restore(before)
        if stop.signum in before:
            _requeue(stop, before[stop.signum])
        elif "SUBMITIT_EXECUTOR" in os.environ:
            # submitit would store this as the job's result, although SLURM may start the job again.
            print(stop, file=sys.stderr, flush=True)
            raise SystemExit(stop.exit_code) from None
        raise
    finally:
        _restore(before)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise TrainingInterrupted(signum)


def _restore(before: dict[int, Any]) -> None:
    for signum, handler in before.items():
        signal.signal(signum, handler)


def _requeue(stop: TrainingInterrupted, handler: Callable[[int, FrameType | None], Any] | int | None) -> None:
    if not is_first_process():
        # With an exit code other than 0, SLURM may end the first process before it has requeued the job.
        raise SystemExit(0)
    # Everything is saved, and SLURM ends the job with SIGTERM as soon as it is requeued.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if callable(handler):
        print(stop, file=sys.stderr, flush=True)
        handler(stop.signum, None)
        raise SystemExit(stop.exit_code)
    job = batch_job(os.environ)
    try:
        done = subprocess.run(
            ["scontrol", "requeue", str(job)], capture_output=True, text=True, check=False, timeout=_SCONTROL_SECONDS
        )
        failure = "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure:
        print(f"SLURM did not requeue job {job}: {failure}. Submit the same script again.", file=sys.stderr, flush=True)
    else:
        print(f"SLURM job {job} is in the queue again, and will continue this run.", file=sys.stderr, flush=True)

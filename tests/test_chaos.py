"""Runs that are killed by SIGKILL end like undisturbed ones, to the last bit; processes stay flat over many jobs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import chaos
import soak
from warm_xlm import warm_xlm
from xlm.utils.run_lock import find_holder

SHORT = 12


class Warm:
    """A warm command, in the form that chaos.py disturbs: a kill hits the process that holds the run."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.folder = folder
        with (folder / "output.txt").open("a") as output:
            self.client = subprocess.Popen([*warm_xlm(), *arguments], cwd=folder, stdout=output, stderr=output)

    def poll(self) -> int | None:
        return self.client.poll()

    def kill(self) -> None:
        holder = find_holder(self.folder / "runs/a")
        if holder is not None and holder[0].pid:
            with contextlib.suppress(ProcessLookupError):  # its end came first
                os.kill(holder[0].pid, signal.SIGKILL)
        self.client.kill()
        self.client.wait()


def test_a_run_that_is_killed_twice_ends_like_one_that_was_not(tmp_path: Path) -> None:
    command = chaos.arguments_of("arlm", SHORT)
    folders = [chaos.prepare(tmp_path / name) for name in ("undisturbed", "disturbed")]
    seconds = chaos.finish(Warm, folders[0], command)
    kills = [
        chaos.disturb(Warm, folders[1], command, moment, random.Random(seed), seconds)
        for seed, moment in enumerate(("save", "validation"))
    ]
    assert all(kills)
    chaos.finish(Warm, folders[1], command)
    runs = [folder / "runs/a" for folder in folders]
    assert chaos.outcome(runs[0]) == chaos.outcome(runs[1])
    assert chaos.leftovers(runs[1]) == []


# 20 kills and their restarts: two minutes of CPU time.
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_in_four_families(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, chaos.__file__, str(tmp_path)], text=True, check=False)
    assert done.returncode == 0, capfd.readouterr().out


# 30 cycles of three jobs: three minutes of CPU time.
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_jobs_in_one_process_need_no_more_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, soak.__file__, str(tmp_path)], text=True, check=False)
    assert done.returncode == 0, capfd.readouterr().out

"""Measures the doors: CPU and wall seconds of commands that a person waits for before any work begins.

python tools/bench.py [--runs N]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What is measured, and the CPU seconds that it should stay under.
DOORS = {
    "xlm --help": 1.0,
    "xlm models": 1.0,
    "xlm job_type=name experiment=star_easy_arlm": 2.0,
}


def measure(command: str, folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of one command, run in a folder; RuntimeError with its output if it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command.split(), cwd=folder, env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main(argv: list[str] | None = None) -> int:
    """Print a table of the best of several runs; exit code 1 if a door is slower than it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args(argv).runs
    slow = False
    print(f"{'command':<48}{'cpu s':>8}{'wall s':>8}{'aim':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for command, aim in DOORS.items():
            cpu, wall = map(min, zip(*(measure(command, Path(folder)) for _ in range(runs)), strict=True))
            print(f"{command:<48}{cpu:>8.2f}{wall:>8.2f}{aim:>8.1f}")
            slow |= cpu > aim
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())

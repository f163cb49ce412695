"""Runs a program that a model wrote, in a process of its own with limits of time, memory, files and output.

The limits stop mistakes: endless loops, too much memory, floods of output, crashes of the interpreter. They don't stop
an attack: the process runs as the same user and can read that user's files and use the network. Don't run programs of
a model that somebody trained to do harm.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["ok", "error", "timeout"]


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds, bytes of memory, bytes of its output and of each file, and open files."""

    seconds: float = 5.0
    memory: int = 512 * 2**20
    file_size: int = 2**20
    num_files: int = 32


@dataclass(frozen=True)
class Ran:
    """How a program ended: `ok` with exit code 0, `error` (an exception, a limit, a signal), or `timeout`."""

    outcome: Outcome
    output: str


# The process limits itself before it runs a line of the program, which cannot raise the limits without privileges.
_START = """
import resource, sys
for name, value in zip(("CPU", "AS", "FSIZE", "NOFILE", "CORE", "NPROC"), map(int, sys.argv[1:7])):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
sys.argv = ["program.py"]
with open("program.py", encoding="utf-8") as file:
    text = file.read()
exec(compile(text, "program.py", "exec"), {"__name__": "__main__"})
"""
_DEFAULT = Limits()


def run_python(program: str, limits: Limits = _DEFAULT) -> Ran:
    """Run a program with this Python, and return what it printed; never raises for a program, however bad.

    It starts in an empty folder, which is deleted afterwards, with the standard library only (`-I -S`), no environment,
    no input, and no right to start processes. All processes of its group are killed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="xlm-sandbox-", ignore_cleanup_errors=True) as folder:
        Path(folder, "program.py").write_text(program, encoding="utf-8", errors="replace")
        output = Path(folder, "output")
        values = [
            max(1, int(limits.seconds + 1)), limits.memory, limits.file_size, limits.num_files, 0, 0,
        ]  # fmt: skip
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _START, *map(str, values)]
        # Into a file, whose size is limited: nothing has to be read while the program runs.
        with output.open("wb") as printed:
            process = subprocess.Popen(
                command, cwd=folder, env={}, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(limits.seconds)
                outcome: Outcome = "ok" if code == 0 else "timeout" if code == -signal.SIGXCPU else "error"
            except subprocess.TimeoutExpired:
                outcome = "timeout"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        with output.open("rb") as written:
            text = written.read(limits.file_size).decode("utf-8", errors="replace")
    return Ran(outcome, text)

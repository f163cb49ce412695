"""Runs `xlm` commands in a group of processes that are forked from this one, so that libraries are imported once.

The processes look as if torchrun had started them: Lightning finds their ranks in the environment.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from warm_xlm import PRELOADED

Command = Sequence[str]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_group(world_size: int, commands: Sequence[Command], cwd: Path, timeout: float = 400) -> list[str]:
    """Run the commands one after the other in a group of processes; returns what each rank printed.

    AssertionError if a command fails in a rank.
    """
    children = start_group(world_size, commands, cwd)
    codes = {rank: wait(pid, timeout) for rank, pid in children.items()}
    printed = [(cwd / f"rank{rank}.out").read_text() for rank in children]
    assert not any(codes.values()), f"{codes}\n" + "\n".join(printed)
    return printed


def start_group(world_size: int, commands: Sequence[Command], cwd: Path) -> dict[int, int]:
    """Fork the processes; rank → process id. What rank r prints goes to `rank<r>.out` in the folder."""
    sys.stdout.flush()
    for name in PRELOADED:
        importlib.import_module(name)
    variables = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    children = {}
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            os._exit(_become(rank, variables, commands, cwd))
        children[rank] = pid
    return children


def wait(pid: int, timeout: float) -> int:
    """The exit code of a child: negative for a signal. It is killed at the timeout."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -9


def _become(rank: int, variables: dict[str, str], commands: Sequence[Command], cwd: Path) -> int:
    from xlm.cli.main import main

    os.chdir(cwd)
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
    output = os.open(f"rank{rank}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    code = 1
    with contextlib.suppress(SystemExit):
        for command in commands:
            sys.argv = ["xlm", *command]
            code = main(list(command))
            if code:
                break
    sys.stdout.flush()
    sys.stderr.flush()
    return code

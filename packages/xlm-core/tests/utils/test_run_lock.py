"""A run's folder has one writer: live holders are refused, dead ones replaced, also when runs start together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from xlm.errors import ConfigError, RunInUseError
from xlm.utils import processes, run_lock
from xlm.utils.run_lock import LOCK, STALE_SECONDS, Holder, RunLock, find_holder

HOLD = """
import sys, time
from xlm.errors import RunInUseError
from xlm.utils.run_lock import RunLock
try:
    with RunLock(sys.argv[1]):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except RunInUseError as error:
    print("refused", error, flush=True)
"""


def start(folder: Path, seconds: float = 60) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def leave(folder: Path, silence: float = 0.0, **changes: object) -> None:
    """Write a lock as a holder leaves it that differs from this process in `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK).write_text(json.dumps(asdict(replace(Holder.this_process(), **changes))))  # type: ignore[arg-type]
    os.utime(folder / LOCK, (time.time() - silence,) * 2)


def test_a_lock_leaves_nothing_and_is_given_back_after_an_error(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    with pytest.raises(FileNotFoundError), RunLock(run):
        (run / "missing").read_text()
    assert not run.parent.exists()  # nothing came into it
    with RunLock(run):
        (run / "config.yaml").touch()
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_the_second_start_says_who_holds_the_folder(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunInUseError) as caught, RunLock(tmp_path):
        pass
    text = str(caught.value)
    assert f"process {os.getpid()} on host {socket.gethostname()}, since " in text
    assert "job_name=" in text
    assert "\n" not in text
    assert caught.value.folder == tmp_path


DEAD = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
OTHER = {"host": "elsewhere", "machine": "another"}


@pytest.mark.parametrize(
    ("silence", "holder", "environ", "is_alive"),
    [
        (0.0, {}, {}, True),
        (9999.0, {}, {}, True),  # stopped by Ctrl-Z, but there
        (0.0, {"pid": int(DEAD.stdout)}, {}, False),
        (0.0, {"process_started": "1"}, {}, False),  # its id was given to another process
        (0.0, OTHER, {}, True),
        (STALE_SECONDS + 9, OTHER, {}, False),
        (10.0, {"machine": "another"}, {}, True),  # another container, or another boot, of one name
        (STALE_SECONDS + 9, {"machine": "another"}, {}, False),
        (0.0, {**OTHER, "slurm": "7.0"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, False),  # requeued
        (0.0, {**OTHER, "slurm": "7.0"}, {"SLURM_JOB_ID": "7"}, True),  # a second step of one job
        (0.0, {**OTHER, "slurm": "7.0"}, {"SLURM_JOB_ID": "8"}, True),
    ],
)
def test_who_is_taken_to_be_alive(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silence: float,
    holder: Mapping[str, object],
    environ: Mapping[str, str],
    is_alive: bool,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    leave(tmp_path, silence, **holder)
    if is_alive:
        with pytest.raises(RunInUseError), RunLock(tmp_path):
            pass
    else:
        with RunLock(tmp_path) as lock:
            assert find_holder(tmp_path) is not None
            lock.check()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"new": 1}'])
def test_a_lock_that_cannot_be_read_counts_by_its_time(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(RunInUseError), RunLock(tmp_path):
        pass
    os.utime(tmp_path / LOCK, (0, 0))
    with RunLock(tmp_path):
        pass


def test_a_killed_process_is_replaced_and_a_terminated_fork_gives_nothing_back(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert said(process) == "held\n"
    with pytest.raises(RunInUseError, match=f"process {process.pid} "), RunLock(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)  # and not waited for: a process that has ended and is still listed
    while processes.process_started(process.pid) is not None:
        time.sleep(0.01)
    with RunLock(tmp_path) as lock:
        lock.me = replace(lock.me, pid=1)  # as a child sees it that was forked from the run
        lock.__exit__(None, None, None)
        assert (tmp_path / LOCK).exists()
        lock.me = replace(lock.me, pid=os.getpid())
    process.communicate()


def no_flock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run_lock, "_locked", lambda *_: False)


def no_links(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    patch.setattr(os, "link", refuse)


@pytest.mark.parametrize("disk", [None, no_flock, no_links])
@pytest.mark.parametrize("dead", [False, True])
def test_of_many_starts_at_once_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[[pytest.MonkeyPatch], None] | None, dead: bool
) -> None:
    """Threads stand for processes and machines: every lock has a token of its own."""
    if disk:
        disk(monkeypatch)
    monkeypatch.setattr(run_lock, "_SETTLE_SECONDS", 0.1)
    if dead:
        leave(tmp_path, process_started="1")
    gate, end, held = threading.Barrier(6), threading.Barrier(6), []

    def one() -> None:
        gate.wait()
        try:
            with RunLock(tmp_path):
                held.append(1)
                end.wait()
        except RunInUseError:
            end.wait()

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert list(tmp_path.iterdir()) == []


def test_three_processes_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "runs" / "a", seconds=1.5) for _ in range(3)]
    texts = sorted(process.communicate()[0].split()[0] for process in processes)
    assert texts == ["held", "refused", "refused"]


def test_a_beat_tells_of_life_and_a_run_that_was_taken_for_dead_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.02)
    with RunLock(tmp_path) as lock:
        os.utime(tmp_path / LOCK, (0, 0))
        wait_until(lambda: (tmp_path / LOCK).stat().st_mtime > 0)
        lock.check()
        leave(tmp_path, host="elsewhere", machine="another")
        wait_until(lambda: lock._lost)
        with pytest.raises(RunInUseError, match=r"was taken over by process .* on host elsewhere"):
            lock.check()
    assert (tmp_path / LOCK).exists()  # it is the other's


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing/here"])
def test_where_nothing_can_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), RunLock(tmp_path / place):
        pass

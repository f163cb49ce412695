"""One writer at a time in a run's folder: `run.lock` names it; a lock whose process has ended is taken over.

On one machine, the process id and the start time of the process show whether the owner of a lock is dead. Between
machines that share a disk this is not possible, and operating system locks may not work: then the file's
modification time counts, which a thread refreshes while the run is alive.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from xlm.errors import ConfigError, RunInUseError, StorageError
from xlm.utils.processes import machine, process_started

LOCK = "run.lock"
BEAT_SECONDS = 30.0
STALE_SECONDS = 300.0
# Without an operating system lock, concurrent takeovers see within this time which of them succeeded.
_SETTLE_SECONDS = 0.3
_GUARD_SECONDS = 5.0
_ATTEMPTS = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The holder of a folder.

    Args:
        token: of this start.
        pid, process_started: the process, and its start time in ticks of the machine; "" if unknown.
        host: name of its machine.
        machine: distinguishes boots and containers with the same name; "" if unknown.
        since: seconds since the epoch.
        slurm: job id and restart count; "" outside SLURM.
    """

    token: str
    pid: int
    process_started: str
    host: str
    machine: str
    since: float
    slurm: str = ""

    @classmethod
    def this_process(cls) -> Holder:
        """A new start of this process."""
        pid = os.getpid()
        job = os.environ.get("SLURM_JOB_ID", "")
        slurm = f"{job}.{os.environ.get('SLURM_RESTART_COUNT') or 0}" if job else ""
        return cls(
            uuid.uuid4().hex, pid, process_started(pid) or "", socket.gethostname(), machine(), time.time(), slurm
        )

    @property
    def is_here(self) -> bool:
        """Whether its process id is valid in this process's view."""
        return (self.host, self.machine) == (socket.gethostname(), machine())

    def is_alive(self, silence: float) -> bool:
        """Whether the run may still write; `silence` is the time in seconds since the lock was refreshed."""
        if self.is_here and sys.platform != "win32":
            found = process_started(self.pid)
            if found is None:
                return False
            if found and self.process_started:
                return found == self.process_started
        return not self._was_requeued() and silence < STALE_SECONDS

    def _was_requeued(self) -> bool:
        """Whether this process is a later start of the same SLURM job, which runs only once at a time."""
        mine = Holder.this_process().slurm
        return bool(self.slurm) and self.slurm.rpartition(".")[0] == mine.rpartition(".")[0] and self.slurm != mine

    def describe(self, silence: float) -> str:
        """`process 12 on host a, since …`, for the middle of a sentence."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        who = f"process {self.pid} on host {self.host}, since {since}" if self.pid else "a process that is starting"
        return who if self.is_here else f"{who}, last sign of life {max(0, int(silence))} s ago"


def find_holder(folder: Path, now: float | None = None) -> tuple[Holder, float] | None:
    """The holder of a folder's lock, and the seconds since its last sign of life; None without a lock."""
    path = folder / LOCK
    try:
        silence = (time.time() if now is None else now) - path.stat().st_mtime
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return _parsed(text) or Holder("", 0, "", "unknown", "unknown", time.time() - silence), silence


def _parsed(text: str) -> Holder | None:
    """The holder named in a lock; None if the lock is incomplete."""
    try:
        holder = Holder(**json.loads(text))
        time.localtime(holder.since)
    except (ValueError, TypeError, OverflowError, OSError, RecursionError):
        return None
    texts = (holder.token, holder.process_started, holder.host, holder.machine, holder.slurm)
    is_sound = isinstance(holder.pid, int) and all(isinstance(text, str) for text in texts)
    return holder if is_sound else None


class RunLock:
    """Holds a folder while entered; the folder is created if needed, and removed again if it stays empty.

    Raises:
        RunInUseError: another run holds it; ConfigError: it cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / LOCK
        self.me = Holder.this_process()
        self._made: list[Path] = []
        self._ended = threading.Event()
        self._lost = False

    def __enter__(self) -> RunLock:
        try:
            self._take()
        except OSError as error:
            self._remove_made()
            raise ConfigError(
                f"{self.folder} cannot be written: {error.strerror or error}.", key="paths.run_dir"
            ) from error
        except BaseException:
            self._remove_made()
            raise
        threading.Thread(target=self._beat, name=f"lock of {self.folder}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if os.getpid() != self.me.pid:  # a fork of the run ends; the run continues
            return
        with contextlib.suppress(OSError):
            if self._is_mine():
                self.path.unlink()
        self._remove_made()

    def check(self) -> None:
        """RunInUseError if another run has taken over the folder because this one seemed dead.

        StorageError if the folder was removed or renamed: writing would create it again, without its older files.
        """
        if not self.folder.is_dir():
            raise StorageError(
                f"{self.folder} was removed or renamed while this run was writing to it. Nothing more is written.",
                path=self.folder,
            )
        if self._lost:
            found = find_holder(self.folder)
            other = found[0].describe(found[1]) if found else "another process"
            raise RunInUseError(
                f"{self.folder} was taken over by {other}, because this run showed no sign of life for "
                f"{STALE_SECONDS / 60:.0f} minutes. This run ends without writing anything more.",
                folder=self.folder,
            )

    def _take(self) -> None:
        for _ in range(_ATTEMPTS):
            self._make_folder()
            mine = self.folder / f".{LOCK}.{self.me.token}"
            try:
                with _guarded(self.folder) as is_guarded:
                    mine.write_text(json.dumps(asdict(self.me)), encoding="utf-8")
                    # Both times come from the disk, so differences between machine clocks don't matter.
                    found = find_holder(self.folder, now=mine.stat().st_mtime)
                    if found is not None:
                        self._refuse_living(*found)
                        self._clear(found[0])
                    if not _place(mine, self.path):
                        continue
            except FileNotFoundError:
                continue  # another process has removed the folder again
            finally:
                mine.unlink(missing_ok=True)
            if not is_guarded:
                time.sleep(_SETTLE_SECONDS)
            if self._is_mine():
                if found is not None:
                    log.warning(
                        f"{self.folder}: its run ({found[0].describe(found[1])}) has ended; this run takes over."
                    )
                return
        raise RunInUseError(
            f"{self.folder} is being used by several runs that started at the same time. Try again.", folder=self.folder
        )

    def _refuse_living(self, holder: Holder, silence: float) -> None:
        if not holder.is_alive(silence):
            return
        stale = (
            ""
            if holder.is_here
            else f" A run on another machine is considered dead after {STALE_SECONDS / 60:.0f} minutes."
        )
        raise RunInUseError(
            f"{self.folder} is in use by a training run ({holder.describe(silence)}). Wait until it ends, or give this "
            f"run another name, job_name=….{stale}",
            folder=self.folder,
        )

    def _clear(self, dead: Holder) -> None:
        """Remove a dead lock: move it aside first, since it may have been replaced after it was read."""
        aside = self.folder / f".{LOCK}.{self.me.token}.old"
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        try:
            found = _parsed(aside.read_text(encoding="utf-8", errors="replace"))
            if found is not None and found.token != dead.token:
                _place(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        found = find_holder(self.folder)
        return found is not None and found[0].token == self.me.token

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                if self._is_mine():
                    os.utime(self.path)
                elif self.path.exists():
                    self._lost = True
                    return

    def _make_folder(self) -> None:
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made = [*self._made, *(path for path in missing if path not in self._made)]

    def _remove_made(self) -> None:
        for path in self._made:
            try:
                path.rmdir()
            except OSError:  # the run has written something
                return


def _place(source: Path, target: Path) -> bool:
    """Rename a file if the new name is free, atomically."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links: the file is empty for a moment
        try:
            with target.open("x", encoding="utf-8") as file:
                file.write(source.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[bool]:
    """One process of this machine at a time; False if the disk has no such locks, or another process hangs in here."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, PermissionError):
        yield False
        return
    try:
        yield _locked(fcntl, descriptor)
    finally:
        os.close(descriptor)  # which releases the lock


def _locked(fcntl: Any, descriptor: int) -> bool:
    until = time.monotonic() + _GUARD_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return False
        else:
            return True
    return False

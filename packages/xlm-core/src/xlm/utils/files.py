"""Atomic replacement of files, temporary files that killed processes left, and checks of output paths before a job."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xlm.errors import ConfigError, StorageError, as_line
from xlm.utils.processes import machine, process_started
from xlm.utils.run_lock import STALE_SECONDS

#: The disk is full, over its quota, read-only or damaged, or a file is too large: only writing meets these.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


@contextmanager
def writing(path: Path | str, advice: str = "") -> Iterator[None]:
    """Turn an error of the file system in a block that writes `path` into a StorageError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {reason_of(error)}. {advice}".rstrip(), path=path) from error


def reason_of(error: OSError) -> str:
    """`No space left on device`, without number and path."""
    text = error.strerror or str(error)
    # Arrow puts its own words around the system's.
    return os.strerror(error.errno) if error.errno and "[errno " in text else text


def replace_text(path: Path, text: str) -> Path:
    """Replace the contents of `path` with `text` as UTF-8, atomically; folders are created as needed.

    Several processes may do so at once: each writes its own file, and the last one wins.

    Raises:
        StorageError: the disk is full, read-only or unreachable; the old file is unchanged.
    """
    target = Path(os.path.realpath(path))  # follow a link and keep it
    temporary = temporary_beside(target)
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return path


def keep_earlier(path: Path, text: str) -> Path | None:
    """Give the file at `path` a second name with the next free number, so that replacing it by `text` loses nothing.

    `rows.jsonl` becomes `rows-1.jsonl`, the next one `rows-2.jsonl`. None if there is no file, or if it has that text.
    """
    if not path.is_file() or path.read_bytes() == text.encode():
        return None
    numbers = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(1))
    kept = next(other for other in numbers if not os.path.lexists(other))
    with writing(kept):
        try:
            os.link(os.path.realpath(path), kept)
        except FileExistsError:  # another process was faster
            return keep_earlier(path, text)
        except OSError:  # a file system without hard links
            shutil.copy2(path, kept)
    return kept


def temporary_beside(path: Path) -> Path:
    """The temporary file of this process that becomes `path`; its name shows others whether the process is alive."""
    return path.with_name(f".{path.name}.{_tag(os.getpid())}.tmp")


def _tag(pid: int) -> str:
    """A process by its number, its start time, and its machine."""
    return f"{pid}-{process_started(pid) or 0}-{_here()}"


def _here() -> str:
    return hashlib.sha256(f"{socket.gethostname()} {machine()}".encode()).hexdigest()[:8]


def sync_folder(folder: Path) -> None:
    """Flush a rename in `folder` to the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)-(?P<started>\d+)-(?P<machine>[0-9a-f]{8})\.tmp")
# Names without a process: those of earlier versions, and folders of sharded checkpoints.
_OLDER = re.compile(r"\..+\.(\d+\.)?tmp|\..+\.ckpt\.([a-z0-9_]{8}|step-\d+-[0-9a-f]{8})|metrics\.tmp")


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files and folders of processes that have ended, below `folder`; returns what it removed.

    On this machine the process is looked up. On another one, and for names of earlier versions, a file counts as left
    over if it was not written to for five minutes, like the lock of a run.
    """
    removed = []
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            if _is_left_over(path):
                if name in folders:
                    folders.remove(name)
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()
                if not path.exists():
                    removed.append(path)
    return removed


def _is_left_over(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is not None and found["machine"] == _here():
        now = process_started(int(found["pid"]))
        return now is None or (now != "" and found["started"] not in ("0", now))
    if found is None and not _OLDER.fullmatch(path.name):
        return False
    try:
        inside = [path, *path.rglob("*")] if path.is_dir() else [path]
        return time.time() - max(each.stat().st_mtime for each in inside) > STALE_SECONDS
    except OSError:
        return False


# The number of bytes written as a test: an empty file may still fit on a full disk.
_TRIED = b"\0" * 4096
_ATTEMPTS = 5


def output_file(path: str | Path, key: str, read: Sequence[str | Path] = ()) -> Path:
    """`path`, after checking that a file can be written there; no trace remains, and an existing file is unchanged.

    A file is replaced as a whole when the job has finished, also through a symbolic link.

    Args:
        key: the option, for messages.
        read: files that the job reads, which it must not replace.

    Raises:
        ConfigError: it is a folder, a device or one of `read`, or its folder cannot be created or written to.
    """
    path = _given(path, key)
    try:
        if any(os.path.realpath(path) == os.path.realpath(other) for other in read):
            raise ConfigError(as_line(f"{key}: {path} is an input of the job, and would be replaced."), key=key)
        if path.is_dir():
            raise ConfigError(as_line(f"{key}: {path} is a folder, but must be a file."), key=key)
        if path.exists() and not path.is_file():
            raise ConfigError(as_line(f"{key}: {path} is not a regular file, and would be replaced by one."), key=key)
        target = Path(os.path.realpath(path))
        if target.is_symlink():  # links in a circle
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        _try(target)
    except (OSError, ValueError) as error:
        raise _refused(path, key, error) from error
    return path


def output_folder(path: str | Path, key: str) -> Path:
    """`path`, after checking that files can be written below it; no trace remains.

    Raises:
        ConfigError: it is a file, or cannot be created or written to. `key` is the option.
    """
    path = _given(path, key)
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise ConfigError(as_line(f"{key}: {path} is not a folder, but must be one."), key=key)
        _try(path / "output")
    except (OSError, ValueError) as error:
        raise _refused(path, key, error) from error
    return path


def _given(path: str | Path, key: str) -> Path:
    if not str(path).strip():
        raise ConfigError(f"{key} is empty, and must be a path.", key=key)
    return Path(path)


def _refused(path: Path, key: str, error: OSError | ValueError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ConfigError(as_line(f"{key}: {path} cannot be written: {reason}."), key=key)


def _try(path: Path) -> None:
    """Write a file next to `path`, then remove it and the folders that were created for it."""
    missing = [parent for parent in path.parents if not parent.exists()]
    temporary = temporary_beside(path)
    if path.parent.exists() and not path.parent.is_dir():  # the same error as for any path below it
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(_TRIED)
                file.flush()
                os.fsync(file.fileno())
            return
        except FileNotFoundError:
            if not attempts_left:
                raise
            time.sleep(0.01)  # another job that checks the same place has removed the folder
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()

"""Atomic replacement of files, and a check of every output path before a job starts."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xlm.errors import ConfigError, as_line


def replace_text(path: Path, text: str) -> Path:
    """Replace the contents of `path` with `text` as UTF-8, atomically; folders are created as needed.

    Several processes may do so at once: each writes its own file, and the last one wins.
    """
    target = Path(os.path.realpath(path))  # follow a link and keep it
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def temporary_beside(path: Path) -> Path:
    """The temporary file of this process that becomes `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


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
        _try(Path(os.path.realpath(path)))
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

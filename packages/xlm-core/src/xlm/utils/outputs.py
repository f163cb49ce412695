"""Looks at where a job will write before it works: an output that cannot be written is a mistake told at the start."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xlm.errors import ConfigError, as_line
from xlm.utils.files import temporary_beside

# So much is written to try a disk: an empty file may still fit on a full one.
_TRIED = b"\0" * 4096
_ATTEMPTS = 5


def output_file(path: str | Path, key: str, read: Sequence[str | Path] = ()) -> Path:
    """`path`, once a file could be written there; nothing stays behind, and a file that is there stays as it is.

    A file is replaced as a whole when the job has done its work, through a symbolic link too.

    Args:
        key: the option, for messages.
        read: files that the job reads, which it may not replace.

    Raises:
        ConfigError: it is a folder, a device or one of `read`, or its folder cannot be made or written to.
    """
    path = _given(path, key)
    try:
        if any(os.path.realpath(path) == os.path.realpath(other) for other in read):
            raise ConfigError(as_line(f"{key}: {path} is what the job reads, and would be replaced."), key=key)
        if path.is_dir():
            raise ConfigError(as_line(f"{key}: {path} is a folder, and a file is needed."), key=key)
        if path.exists() and not path.is_file():
            raise ConfigError(as_line(f"{key}: {path} is no regular file, and would be replaced by one."), key=key)
        _try(Path(os.path.realpath(path)))
    except (OSError, ValueError) as error:
        raise _refused(path, key, error) from error
    return path


def output_folder(path: str | Path, key: str) -> Path:
    """`path`, once files could be written below it; nothing stays behind.

    Raises:
        ConfigError: it is a file, or cannot be made or written to. `key` is the option.
    """
    path = _given(path, key)
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise ConfigError(as_line(f"{key}: {path} is no folder, and a folder is needed."), key=key)
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
    """Write a file beside `path`, and take it and the folders that were made for it away again."""
    missing = [parent for parent in path.parents if not parent.exists()]
    temporary = temporary_beside(path)
    if path.parent.exists() and not path.parent.is_dir():  # as for anything below it
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
            time.sleep(0.01)  # another job that looks at the same place has taken the folder away
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()

"""Writing files that are never seen half written."""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8 in place of whatever `path` held, in one step; folders are made as needed.

    Several processes may do so at once: each writes a file of its own, and the last one stays.
    """
    target = Path(os.path.realpath(path))  # through a link, which stays
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
    """The file that this process writes before it becomes `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")

"""Fixtures for tests that create model packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xlm.scaffold.cli import main

Scaffold = Callable[..., int]


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes | str | None]]:
    """Everything below a folder: the contents of files, the targets of links, None for folders."""

    def read(folder: Path) -> dict[str, bytes | str | None]:
        found: dict[str, bytes | str | None] = {}
        for path in sorted(folder.rglob("*")):
            content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[path.relative_to(folder).as_posix()] = content
        return found

    return read


@pytest.fixture
def scaffold(work_dir: Path) -> Scaffold:
    """Runs `xlm-scaffold` in this process, from an empty folder; the exit code."""
    return lambda *arguments: main([str(argument) for argument in arguments])

"""Carries a plan out: all or nothing, also when it is interrupted or ended by SIGTERM."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xlm.errors import ScaffoldError
from xlm.scaffold.plan import Plan, check_target
from xlm.scaffold.registry import add_entry, is_listed


def write(plan: Plan) -> None:
    """Write the package into a temporary folder beside its place, rename it, list it in xlm_models.json.

    Whatever goes wrong on the way is undone, and ends in ScaffoldError if a person can mend it.
    """
    folder = plan.request.output_dir
    try:
        with _folder(folder), _lock(folder):
            check_target(plan.request)
            with tempfile.TemporaryDirectory(prefix=f".{plan.request.name}.", dir=folder) as staging:
                _write_files(Path(staging) / plan.request.name, plan.files)
                (Path(staging) / plan.request.name).rename(plan.root)
            try:
                add_entry(folder, plan.request.name)
            except BaseException:
                # An interrupt may come when all is done: then the model stays, complete.
                if not is_listed(folder, plan.request.name):
                    shutil.rmtree(plan.root)
                raise
    except OSError as error:
        raise ScaffoldError(f"{folder} cannot be written to: {error.strerror or error}.") from error


def _write_files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Makes the folder and its parents, and takes back those that were new if the body fails."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):  # somebody else may have put something into it
                path.rmdir()
        raise


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One scaffold at a time for a folder: two would each write an xlm_models.json without the other's model."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have none
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""`xlm rm` and `xlm mv`: remove runs, or give one another name, as a whole and never while it is in use."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from xlm.compose.naming import checked_job_name
from xlm.errors import ConfigError, RunInUseError, StorageError, as_line
from xlm.reports.run import DEFAULT_FOLDER, MARKS, is_run, named_runs, run_folders, runs_folder
from xlm.schemas import Move, Remove
from xlm.utils.columns import print_sentence
from xlm.utils.files import reason_of, sync_folder
from xlm.utils.run_lock import LOCK, RunLock, find_holder

# What core's jobs write into the folder of a run.
_OF_A_RUN = (
    "checkpoints", "predictions", "tensorboard", "tokenizer", "extracted", "config*.yaml", "record_*.json", "*.log",
    "results.json", "metrics.csv", "curves.*", "eval_*.json", "generations*.jsonl", "trace*", "sweep_*", "lm_eval*",
    "repeat.json", "report*", ".*", LOCK, "wandb", "mlruns", "profile*", "lr_range*",
)  # fmt: skip
# A run that trained or was evaluated has one of these; other files may be anybody's.
_RECORDS = ("record_*.json", "config*.yaml")
_MOST_NAMES = 4


def remove_runs(words: Sequence[str], options: Remove) -> int:
    """Print what the named runs contain and remove them, after a confirmation; returns 0, or 1 if that was declined.

    Raises:
        ConfigError: a word is not a run or a pattern of runs, or nobody can be asked.
        RunInUseError: a run is in use. Nothing is removed then, including the others.
    """
    if not words:
        raise ConfigError("Which runs? xlm rm a b, or a pattern: xlm rm 'star_*'. `xlm runs` lists them.", key="runs")
    folders = list(dict.fromkeys(folder for word in words for folder in _folders(word)))
    contents = {folder: _contents(folder) for folder in folders}
    for folder in folders:
        _refuse_in_use(folder, "was not removed")
    for folder, content in contents.items():
        print_sentence(f"{folder}  {content.describe()}")
    total = _size(sum(content.num_bytes for content in contents.values()))
    runs = "1 run" if len(folders) == 1 else f"{len(folders)} runs"
    if not options.yes and not _confirmed(f"Remove {runs}, {total}? [y/N] "):
        print("Nothing was removed.")
        return 1
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(RunLock(folder))
        for folder in folders:
            _remove(folder)
    print_sentence(f"Removed {runs}, {total}.")
    return 0


def move_run(words: Sequence[str], options: Move) -> int:
    """Give a run another name, or move it to another folder; returns 0.

    Raises:
        ConfigError: the run doesn't exist, the new name is taken or not allowed, or the folder is on another disk.
        RunInUseError: the run is in use.
    """
    if len(words) != 2:
        given = f", but was given: {' '.join(words)}" if words else ""
        raise ConfigError(as_line(f"xlm mv takes a run and its new name{given}. Example: xlm mv old new"), key="run")
    found = _folders(words[0])
    if len(found) != 1:
        raise ConfigError(as_line(f"{words[0]} is {len(found)} runs. xlm mv takes one of them."), key="run")
    source = found[0]
    target = _target(source, words[1])
    _refuse_in_use(source, "was not moved")
    with RunLock(source):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        except OSError as error:
            advice = "Copy the folder there, then remove this one with xlm rm." if error.errno == errno.EXDEV else ""
            raise StorageError(
                f"{source} cannot be moved to {target}: {reason_of(error)}. {advice}".rstrip(), path=source
            ) from error
        (target / LOCK).unlink(missing_ok=True)
    sync_folder(target.parent)
    _remove_empty(source.parent)
    print_sentence(f"{source} is now {target}.")
    with suppress(ValueError):
        name = target.resolve().relative_to(runs_folder().resolve()).as_posix()
        print_sentence(f"The command that trained it continues it with job_name={_quoted(name)}.")
    return 0


@dataclass(frozen=True)
class Contents:
    """The size of a run's folder, the number of its checkpoints, and entries that no job of core writes."""

    num_bytes: int
    num_checkpoints: int
    others: Sequence[str] = ()

    def describe(self) -> str:
        """`12.3 MiB, 3 checkpoints, also notes.txt`."""
        checkpoints = "1 checkpoint" if self.num_checkpoints == 1 else f"{self.num_checkpoints} checkpoints"
        more = f" and {len(self.others) - _MOST_NAMES} more" if len(self.others) > _MOST_NAMES else ""
        also = f", also {', '.join(self.others[:_MOST_NAMES])}{more}" if self.others else ""
        return f"{_size(self.num_bytes)}, {checkpoints}{also}"


def _contents(folder: Path) -> Contents:
    """What a run's folder contains; ConfigError if removing it would remove more than a run."""
    inside = [path for path in _below(folder) if is_run(path)]
    if inside:
        raise ConfigError(as_line(f"{folder} contains another run, {inside[0]}. Name that one first."), key="runs")
    if (folder / ".git").exists() or Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            as_line(f"{folder} is more than a run: it is the current directory or a repository. Nothing was removed."),
            key="runs",
        )
    files = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(place, name))
                files[status.st_dev, status.st_ino] = status.st_size  # a file with two names counts once
    others = [
        path.name
        for path in sorted(folder.iterdir())
        if not any(fnmatchcase(path.name, pattern) for pattern in _OF_A_RUN)
    ]
    return Contents(sum(files.values()), len(list(folder.glob("checkpoints/*.ckpt"))), others)


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not any(fnmatchcase(path.name, name) for name in _OF_A_RUN):
            yield from run_folders(path)


def _folders(word: str) -> list[Path]:
    """The runs that a word names: a folder, the name of a run below runs/, or a pattern.

    Raises:
        ConfigError: it is not a run.
    """
    for path in (Path(word), runs_folder() / word):
        if not path.is_dir():
            continue
        if path.is_symlink():
            raise ConfigError(as_line(f"{path} is a link to {path.resolve()}. Name that folder."), key="runs")
        if is_run(path) and any(next(path.glob(mark), None) for mark in _RECORDS):
            return [path]
        inside = len(list(run_folders(path)))
        advice = f" It contains {inside} runs: '{path}/*' names all of them." if inside else ""
        raise ConfigError(as_line(f"{path} is not a run: it has no record_*.json or config.yaml.{advice}"), key="runs")
    return [run.folder for run in named_runs([word])]


def _refuse_in_use(folder: Path, outcome: str) -> None:
    found = find_holder(folder)
    if found is not None and found[0].is_alive(found[1]):
        raise RunInUseError(
            f"{folder} is in use by a training run ({found[0].describe(found[1])}), and {outcome}.", folder=folder
        )


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("Nothing was removed, since nobody can be asked here. Add yes=true to remove.", key="yes")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remove(folder: Path) -> None:
    """Remove a run whose lock is held. Its records go last, so that what a kill leaves is still a run."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: any(fnmatchcase(path.name, mark) for mark in MARKS))
        for path in entries:
            if path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        raise StorageError(f"{folder} cannot be removed: {reason_of(error)}.", path=folder) from error
    _remove_empty(folder.parent)


def _remove_empty(folder: Path) -> None:
    """Remove folders of runs that are empty now, but not the folder of all runs itself."""
    runs = runs_folder().resolve()
    while folder.resolve() != runs and folder.resolve().is_relative_to(runs):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _target(source: Path, new: str) -> Path:
    """The folder that a new name stands for: a name like job_name, below runs/, or a path.

    A name that ends in `/`, or an existing folder that is not a run, keeps the last part of the old name.
    """
    said = Path(new).expanduser()
    is_path = said.is_absolute() or said.parts[:1] in ((".",), ("..",), (DEFAULT_FOLDER.name,)) or said.is_dir()
    is_path = is_path or new.startswith("./")
    base = runs_folder() if source.resolve().is_relative_to(runs_folder().resolve()) else source.parent
    target = said if is_path else base / said
    if not new.strip():
        raise ConfigError("The new name is empty (an unset shell variable?).", key="job_name")
    if new.endswith("/") or (target.is_dir() and not is_run(target)):
        target /= source.name
    if os.path.lexists(target):
        raise ConfigError(as_line(f"{target} already exists. Nothing was moved."), key="job_name")
    below = target.resolve()
    if below.is_relative_to(source.resolve()):
        raise ConfigError(as_line(f"{target} is inside {source}. Nothing was moved."), key="job_name")
    over = next((parent for parent in target.parents if parent != Path() and is_run(parent)), None)
    if over is not None:
        raise ConfigError(
            as_line(f"{over} is a run, and cannot contain another one. Nothing was moved."), key="job_name"
        )
    runs = runs_folder().resolve()
    checked_job_name(below.relative_to(runs).as_posix() if below.is_relative_to(runs) else target.name)
    return target


def _size(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def _quoted(name: str) -> str:
    """A name as a shell takes it."""
    return f"'{name}'" if any(c in name for c in " ()[]{}~") else name

"""Finds runs: the folders below a folder that hold one, and those that a person names."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from xlm.errors import ConfigError, as_line, did_you_mean, nearest_names
from xlm.reports.run import Run, read_run

DEFAULT_FOLDER = Path("runs")
MARKS = ("record_*.json", "results.json", "metrics.csv", "eval_*.json")
_MAX_DEPTH = 3
# What a run's folder holds beside its files; none of it is a run.
_INSIDE = ("checkpoints", "predictions", "tensorboard")


def is_run(folder: Path) -> bool:
    """Whether a folder has something that only a run writes."""
    return folder.is_dir() and any(next(folder.glob(mark), None) for mark in MARKS)


def run_folders(folder: Path, depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """The run folders at and below `folder`, by name, no deeper than `depth` levels and none inside another."""
    if is_run(folder):
        yield folder
    elif depth > 0:
        try:
            below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in _INSIDE)
        except OSError:
            return
        for path in below:
            if not path.name.startswith("."):
                yield from run_folders(path, depth - 1)


def named_runs(names: Sequence[str], base: Path = DEFAULT_FOLDER) -> list[Run]:
    """The runs that these names mean: a folder, a folder of runs, the name of a run below `base` (the last part of
    its path, if only one is called so), or a pattern.

    Raises:
        ConfigError: a name means no run.
    """
    folders: list[Path] = []
    for name in names:
        folders += [found for found in _folders(name, base) if found not in folders]
    labels = distinct_names(folders)
    return [read_run(folder, label) for folder, label in zip(folders, labels, strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each folder's path, and as many of those before it as are needed to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({p[-length:] for p in parts}) < len(folders) and length < max(map(len, parts)):
        length += 1
    repeated = [p[-1] for p in parts]
    return ["/".join(p[-length:] if repeated.count(p[-1]) > 1 else p[-1:]).lstrip("/") for p in parts]


def _folders(name: str, base: Path) -> list[Path]:
    if any(c in name for c in "*?") or ("[" in name and not Path(name).exists()):
        found = [Path(p) for pattern in (name, str(base / name)) for p in sorted(glob.glob(pattern)) if is_run(Path(p))]
        if found:
            return found
    for path in (Path(name), base / name):
        if path.is_dir() and (found := list(run_folders(path))):
            return found
    named = [path for path in run_folders(base) if path.name == name]
    if len(named) == 1:
        return named
    raise ConfigError(_missing(name, base), key="runs")


def _missing(name: str, base: Path) -> str:
    if Path(name).is_dir():
        return as_line(f"{name} is no run and holds none: it has no record_*.json, results.json or metrics.csv.")
    known = _names(base)
    hint = did_you_mean(nearest_names(Path(name).name, known))
    if not hint:
        hint = f"Runs: {', '.join(known[:8])}{', …' if len(known) > 8 else ''}." if known else "There are none yet."
    return as_line(f"There is no run '{name}', neither as a folder nor in {base}. {hint}")


def _names(base: Path) -> list[str]:
    return _relative(run_folders(base), base)


def _relative(folders: Iterable[Path], base: Path) -> list[str]:
    return [folder.relative_to(base).as_posix() for folder in folders if folder != base]

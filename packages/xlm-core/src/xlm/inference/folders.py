"""The folder that a model lies in: results are written there, and relative paths of its configuration start near it."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.compose.naming import checked_job_name
from xlm.compose.overrides import DATA_NAMES
from xlm.data.selection import without_slice
from xlm.errors import ConfigError
from xlm.inference.sources import find_weights, folder_of, local_path

# Fields of a source that are not paths.
_NOT_PATHS = ("name", "split", "revision")
# With one of these, the user has chosen the folder.
_CHOOSES = ("job_name", "paths.run_dir", "paths.log_dir", "paths.output_dir", "checkpointing_dir")


def write_beside(cfg: DictConfig, weights: Path, given: Collection[str], hub_id: str | None = None) -> None:
    """Let a job write its results beside the model, whatever the current folder and the name that it was trained as.

    That is the folder of its run, or of its files; for a model from the hub, the folder of its id below `runs/`. The
    job's name, which titles show, is that of the folder.

    Args:
        cfg: the job's configuration, which is changed.
        given: the keys on the command line. Nothing changes if they choose a name or a folder.
        hub_id: the model's name on the hub, if it came from there.
    """
    if any(key in given for key in _CHOOSES):
        return
    if cfg.get("job_name") is not None:
        checked_job_name(cfg.job_name)  # a stored one may be anybody's
    with open_dict(cfg):
        if hub_id is not None:
            cfg.job_name = _name(hub_id, cfg)
            return
        here = name_of_run(weights, cfg.paths.log_dir)
        folder = folder_of(weights).resolve()
        cfg.job_name = checked_job_name(here) if here else _name(folder.name, cfg)
        if not here:
            cfg.paths.run_dir = str(folder)


def write_beside_path(cfg: DictConfig, path_or_id: str, overrides: Sequence[str]) -> None:
    """The same for a composed configuration, if the model is on this machine."""
    if local_path(path_or_id).exists():
        given = [text.partition("=")[0].lstrip("+") for text in overrides]
        write_beside(cfg, find_weights(path_or_id).path, given)


def _name(wanted: str, cfg: DictConfig) -> str:
    """The name if it is valid; a folder from elsewhere may have any."""
    try:
        return checked_job_name(wanted)
    except ConfigError:
        return checked_job_name(cfg.job_name)


def name_of_run(weights: Path, log_dir: str | Path) -> str | None:
    """The name of the run that a checkpoint's folder belongs to, so that a copy is another run; None elsewhere."""
    folder, runs = folder_of(weights).resolve(), Path(log_dir).resolve()
    is_run = weights.parent.name == "checkpoints" and folder.is_relative_to(runs) and folder != runs
    return folder.relative_to(runs).as_posix() if is_run else None


def find_relative_paths(cfg: DictConfig, weights: Path) -> None:
    """Make relative paths of data absolute if they exist near the model, whatever the current folder.

    A run of `project/runs/x` was started in `project`, so `data_files.train=a.txt` is `project/a.txt`: each folder
    above the run is tried, the nearest first. Paths that are not found stay relative to the current folder.
    """
    folders = [folder for folder in folder_of(weights).resolve().parents if folder != Path(folder.anchor)]
    with open_dict(cfg):
        for node, key, value in list(_paths_of_data(cfg)):
            base = next((folder for folder in folders if _is_there(folder / value)), None)
            if base is not None and base != Path.cwd():
                node[key] = str(base / value)


def _paths_of_data(node: Any, is_path: bool = False) -> Iterator[tuple[Any, Any, str]]:
    """Each relative path of data in a configuration: its parent, its key and its value."""
    for key in range(len(node)) if OmegaConf.is_list(node) else list(node):
        child = node._get_node(key)
        is_named = key in DATA_NAMES or (is_path and key not in _NOT_PATHS)
        if OmegaConf.is_config(child):
            if not (child._is_none() or child._is_missing() or child._is_interpolation()):
                yield from _paths_of_data(child, is_named)
        elif is_named and child is not None and _is_relative(value := child._value()):
            yield node, key, value


def _is_relative(value: Any) -> bool:
    is_path = isinstance(value, str) and bool(value) and "${" not in value
    return is_path and not Path(value).expanduser().is_absolute()


def _is_there(path: Path) -> bool:
    """Whether a file, a folder, a pattern, a slice of one of these, or the split of a folder exists."""
    whole = without_slice(str(path))[0]
    if glob.has_magic(whole) and not Path(whole).exists():
        return next(glob.iglob(whole, recursive=True), None) is not None
    return Path(whole).exists()

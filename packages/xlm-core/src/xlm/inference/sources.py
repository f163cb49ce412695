"""Finds a trained model from a checkpoint, weights alone, a run's folder, an exported folder, or a hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from xlm.compose.load import core_file
from xlm.errors import CheckpointError, ConfigError, NotAllowedError, XLMError, as_line, of_option
from xlm.harness import Harness
from xlm.inference.allowed import check_stored, is_own, nodes_of
from xlm.reports.run import runs_folder
from xlm.schemas import PATH_KEYS
from xlm.training.checkpoints import BEST, LAST, best_or_last
from xlm.training.ema import averaged_state_dict
from xlm.training.resume import load_checkpoint
from xlm.training.sharded_checkpoints import INDEX as SHARDS_INDEX
from xlm.training.sharded_checkpoints import is_sharded
from xlm.training.weights import CONFIG, TOKENIZER, load_from, load_weights, select_weights
from xlm.utils.instantiate import first_sentence
from xlm.utils.stored_yaml import check_stored_yaml
from xlm.utils.weight_files import INDEX, WEIGHTS, check_inside, is_weights_alone, weights_in, whole

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# The configuration of a run, in the folder above its checkpoints.
_RUN_CONFIG = "config.yaml"
_MOST_NAMES = 12


@dataclass(frozen=True)
class Source:
    """Weights with their configuration.

    Args:
        path: the weights file, or the index of its shards.
        config: the composed configuration.
        checkpoint: the content of a `.ckpt`; None for safetensors.
        tokenizer: folder of the tokenizer's files, if it has any.
        is_remote: whether it came from the hub.
        config_file: the file of the configuration.
    """

    path: Path
    config: DictConfig
    checkpoint: dict[str, Any] | None = None
    tokenizer: Path | None = None
    is_remote: bool = False
    config_file: Path | None = None


def find_source(path_or_id: str | Path, config: str | Path | None = None, revision: str | None = None) -> Source:
    """The model at a path or a hub id (`owner/name`); an existing path takes precedence over the hub.

    Args:
        path_or_id: a `.ckpt`, a `.safetensors`, an index of shards or one of these, a run's folder (its best
            checkpoint, else its last) or its name below `runs/`, or a folder with `model.safetensors` or its shards
            and `xlm_config.yaml`.
        config: file to read the configuration from, instead of the stored one.
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointError: there is no usable model; CheckpointCorruptError: a file is damaged.
    """
    found = find_weights(path_or_id, revision)
    read, config_file = _config(found.path, found.checkpoint, None if config is None else Path(config))
    return Source(
        path=found.path,
        config=read,
        checkpoint=found.checkpoint,
        tokenizer=found.tokenizer,
        is_remote=found.is_remote,
        config_file=config_file,
    )


def folder_of(weights: Path) -> Path:
    """The folder of the run that a weights file belongs to, or the folder of the file."""
    return weights.parent.parent if weights.parent.name == "checkpoints" else weights.parent


@dataclass(frozen=True)
class Weights:
    """A weights file, or the index of its shards; `tokenizer` is the folder of its tokenizer's files, if any."""

    path: Path
    tokenizer: Path | None = None
    is_remote: bool = False

    @cached_property
    def checkpoint(self) -> dict[str, Any] | None:
        """The content of a `.ckpt`, read once; None for weights alone."""
        return None if is_weights_alone(self.path) else load_checkpoint(self.path)

    @cached_property
    def has_averages(self) -> bool:
        """Whether it has averaged weights besides the raw ones."""
        return self.checkpoint is not None and averaged_state_dict(self.checkpoint) is not None

    def release(self) -> None:
        """Free the content, which is as large as the file."""
        _ = self.has_averages
        self.__dict__.pop("checkpoint", None)


def find_weights(path_or_id: str | Path, revision: str | None = None) -> Weights:
    """The weights file at a path or a hub id, as for `find_source`.

    Raises:
        CheckpointError: there is none; the message lists the models beside it.
    """
    path = local_path(path_or_id)
    if path.exists():
        is_folder = path.is_dir() and not is_sharded(path)
        return _weights(_weights_in(path) if is_folder else whole(path), is_remote=False)
    if path.suffix != ".ckpt" and not is_weights_alone(path) and _HUB_ID.fullmatch(str(path_or_id)):
        return _weights(_weights_in(_fetched(str(path_or_id), revision)), is_remote=True)
    raise CheckpointError(f"There is no file or folder {path}.{_what_is_there(path)}", path=path)


def local_path(path_or_id: str | Path) -> Path:
    """The path, or that of the run of this name below `runs/`."""
    path, run = Path(path_or_id), runs_folder() / path_or_id
    return run if not path.exists() and best_or_last(run / "checkpoints") is not None else path


def _weights(path: Path, is_remote: bool) -> Weights:
    state = (path / SHARDS_INDEX if is_sharded(path) else path).stat()
    return _unchanged(path, is_remote, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=1)
def _unchanged(path: Path, is_remote: bool, state: tuple[int, ...]) -> Weights:
    """The same object for a file until the file changes, so that a job reads it only once."""
    # Beside exported weights, or in the folder of a run whose tokenizer was trained on its data.
    tokenizer = (path.parent if is_weights_alone(path) else folder_of(path)) / TOKENIZER
    if is_weights_alone(path) and tokenizer.is_dir():
        for file in (tokenizer, *tokenizer.iterdir()):
            check_inside(file, path.parent)
    return Weights(path, tokenizer if tokenizer.is_dir() else None, is_remote)


def _what_is_there(path: Path) -> str:
    """The models beside a path that doesn't exist, or in the first existing folder above it; the runs for a name."""
    if path.parent == Path() and runs_folder().is_dir():
        path = runs_folder() / path
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    names = [] if folder is None else sorted(entry.name for entry in folder.iterdir() if _may_be_model(entry))
    if folder is None or not names or folder == Path.cwd():
        return ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f" Models in {shown}: {', '.join(names[:_MOST_NAMES])}{more}."


def _may_be_model(entry: Path) -> bool:
    if entry.is_dir() and not is_sharded(entry):
        return best_or_last(entry / "checkpoints") is not None or weights_in(entry) is not None
    return entry.suffix == ".ckpt" or (is_weights_alone(entry) and whole(entry) == entry)


def _fetched(repo_id: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"'{repo_id}' is not a file or folder here, and could not be downloaded from the hub: {reason}."
            + _what_is_there(Path(repo_id))
        ) from error


def _weights_in(folder: Path) -> Path:
    """The weights file of a folder."""
    found = best_or_last(folder / "checkpoints") or best_or_last(folder) or weights_in(folder)
    if found is not None:
        return found
    raise CheckpointError(
        f"{folder} has no model: a run has checkpoints/{BEST} or {LAST}, an exported folder {WEIGHTS} or {INDEX}.",
        path=folder,
    )


def _config(path: Path, checkpoint: dict[str, Any] | None, given: Path | None) -> tuple[DictConfig, Path]:
    """The configuration, and the file that has it."""
    if given is None and checkpoint is not None and "xlm_config" in checkpoint:
        return _parsed(str(checkpoint["xlm_config"]), path), path
    for file in [given] if given else _places(path):
        if file.is_file():
            if given is None and is_weights_alone(path):
                check_inside(file, file.parent)
            return read_config(file), file
    if given:
        raise CheckpointError(f"There is no configuration at {given}.", path=given)
    raise CheckpointError(
        f"{path} has no configuration ({CONFIG} or {_RUN_CONFIG} beside it). Give config=….",
        path=path,
    )


def read_config(file: Path) -> DictConfig:
    """The configuration in a file of a run; ConfigError if it cannot be read, or goes beyond what is stored."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"The configuration in {file} cannot be read: {first_sentence(error)}.") from error
    return _parsed(text, file)


def _places(path: Path) -> Iterator[Path]:
    for folder in (path.parent, path.parent.parent):
        yield from (folder / CONFIG, folder / _RUN_CONFIG)


def _parsed(text: str, source: Path) -> DictConfig:
    try:
        check_stored_yaml(text)
        config = OmegaConf.create(text)
    except AssertionError as error:  # OmegaConf's, for a number or true
        raise ConfigError(f"The configuration in {source} is not that of a run: it has no 'model'.") from error
    except (ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"The configuration in {source} cannot be used: {first_sentence(error)}.") from error
    if not isinstance(config, DictConfig) or "model" not in config:
        raise ConfigError(f"The configuration in {source} is not that of a run: it has no 'model'.")
    return config


def check_trusted(source: Source, trust: bool, option: str, runs_judges: bool = False) -> Source:
    """The source, if its configuration may be used; see `xlm.inference.allowed`. Model packages must be active.

    A configuration that is used because it names only what is allowed doesn't choose folders for what is written: its
    `paths` are those of this machine.

    Args:
        trust: the user trusts the author of the configuration.
        option: how the user says so, for the message.
        runs_judges: whether the job scores predictions with the configuration's judge.

    Raises:
        NotAllowedError: it names more, or chooses a folder that a job would write to.
    """
    if trust or is_own(source.config):
        return source
    check_stored(source.config, source.config_file or source.path, option, runs_judges)
    return replace(source, config=_with_folders_of_this_machine(source.config, source, option))


# Keys of folders that a job writes to, below `paths` by default, and the paths that they must be below.
_ROOTS = ("root_dir", "data_dir", "cache_dir", "log_dir")
_FOLDERS = ("cache_dir", "dirpath", "save_dir", "default_root_dir")


def _with_folders_of_this_machine(config: DictConfig, source: Source, option: str) -> DictConfig:
    config, file = config.copy(), source.config_file or source.path
    with open_dict(config):
        config.paths = core_file("paths/default.yaml")
        if "checkpointing_dir" in config:
            config.checkpointing_dir = "${paths.run_dir}/checkpoints"
    named = config.copy()
    with open_dict(named):
        named.job_name = "run"  # jobs check the name itself
    for parent, name in nodes_of(named):
        if name not in _FOLDERS or parent is named.paths:
            continue
        key = parent._get_full_key(name)
        try:
            value = parent[name]
        except (OmegaConfBaseException, XLMError) as error:
            raise NotAllowedError(as_line(file), f"has no value at {key}", option, key=key) from error
        if value is not None and not _is_below(str(value), [str(named.paths[root]) for root in _ROOTS]):
            raise NotAllowedError(as_line(file), f"writes to {as_line(value)} ({key})", option, key=key)
    return config


def _is_below(folder: str, roots: Sequence[str]) -> bool:
    path = Path(os.path.abspath(folder))
    return any(path.is_relative_to(os.path.abspath(root)) for root in roots)


def chosen_weights(cfg: DictConfig, section: str) -> Weights:
    """The weights at `<section>.checkpoint_path` (or `.ckpt_path`), else the run's best or last checkpoint.

    The path is a file, the folder of a run or of an exported model, or a hub id (at `<section>.revision`).

    Raises:
        CheckpointError: the path doesn't exist, or no path was given and the run's folder has no checkpoint.
    """
    options: Any = cfg.get(section) or {}
    for key in PATH_KEYS:
        if options.get(key):
            with of_option(f"{section}.{key}"):
                return find_weights(str(options[key]), options.get("revision"))
    directory = Path(cfg.checkpointing_dir)
    if (path := best_or_last(directory)) is not None:
        return find_weights(path)
    log_dir = Path(cfg.paths.log_dir)
    trained = sorted(run.name for run in log_dir.glob("*") if best_or_last(run / "checkpoints"))
    there = f" Runs with a checkpoint: {', '.join(trained)}." if trained else ""
    raise CheckpointError(
        f"There is no checkpoint in {directory}.{there}\n"
        f"Train with this job_name first, or give {section}.checkpoint_path=…"
    )


def load_chosen(harness: Harness, weights: Weights, apply_ema: bool) -> Path:
    """Load the chosen weights, averaged ones if requested and available; returns their path."""
    if weights.checkpoint is None:
        load_from(harness, weights.path)
    else:
        load_weights(harness, select_weights(weights.checkpoint, apply_ema), weights.path)
    weights.release()
    return weights.path

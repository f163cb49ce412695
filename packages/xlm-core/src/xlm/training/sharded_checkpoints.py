"""Checkpoints of sharded runs: folders of safetensors files, one per process, without pickled objects.

    last.ckpt/
        checkpoint.json          the folder that counts, and the size and CRC-32 of each of its files
        step-500-1f0c2a9b/
            header.pt            what is not split: loops, schedules, random states, the configuration, places of shards
            shard-00001-….safetensors, shard-00002-….safetensors

`checkpoint.json` is replaced in one step after all files are on disk. A kill before that leaves the previous content.
Tensors are written and read by `torch.distributed.checkpoint`, which splits them again for any number of processes.
"""

from __future__ import annotations

import inspect
import json
import os
import secrets
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from xlm.errors import CheckpointCorruptError, CheckpointError, ConfigError, StorageError
from xlm.training.disk_space import require_space
from xlm.utils.instantiate import first_sentence
from xlm.utils.rank_zero import all_gather_objects
from xlm.utils.tensor_archive import check_archive

INDEX = "checkpoint.json"
HEADER = "header.pt"
ADVICE = "The checkpoints before it are complete, and the same command continues from the newest one."
_FORMAT = 1
_CHUNK = 1 << 22

Keys = tuple[str | int, ...]


def is_sharded(path: str | Path) -> bool:
    """Whether a path is the folder of a sharded checkpoint."""
    return (Path(path) / INDEX).is_file()


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a checkpoint: a file, or the folder of a sharded one."""
    return Path(path).is_file() or is_sharded(path)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint; of a sharded one the index goes first, so that no incomplete one is left."""
    if is_sharded(path):
        (path / INDEX).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# Writing.


def save_shards(checkpoint: dict[str, Any], path: Path, tied: Mapping[str, str]) -> None:
    """Write a checkpoint; every process writes its own shards, and all must call this.

    Args:
        checkpoint: as dumped by Lightning, with DTensors; emptied of its split tensors.
        path: the folder, or a file in its place, which is replaced.
        tied: further names of tied parameters → the name that is stored.
    """
    writer = _writer()
    is_first = distributed.get_rank() == 0
    name = all_gather_objects(f"step-{checkpoint['global_step']}-{secrets.token_hex(4)}")[0]
    target = path.with_name(f".{path.name}.{name}") if path.is_file() else path
    folder = target / name
    for alias in tied:
        checkpoint["state_dict"].pop(alias, None)
    places = {"/".join(map(str, keys)): (keys, tensor) for keys, tensor in _split_tensors(checkpoint, ())}
    _prepare(folder, sum(tensor.to_local().nbytes for _, tensor in places.values()))
    try:
        _save(folder, {key: tensor for key, (_, tensor) in places.items()}, writer)
        for keys, _ in places.values():
            _set(checkpoint, keys, None)
        if is_first:
            header = {"checkpoint": checkpoint, "places": {k: list(keys) for k, (keys, _) in places.items()}}
            _write_header({**header, "tied": dict(tied)}, folder / HEADER)
        mine = sorted(folder.glob(f"shard-{distributed.get_rank() + 1:05d}-*.safetensors"))
        mine += [folder / HEADER] if is_first else []
        files = dict(pair for pairs in all_gather_objects([_sums(file) for file in mine]) for pair in pairs)
    except BaseException:
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if is_first:
        _replace_index(target, {"format": _FORMAT, "folder": name, "files": files})
        for old in target.iterdir():
            if old.is_dir() and old != folder:
                shutil.rmtree(old, ignore_errors=True)
        if target != path:
            path.unlink()
            target.rename(path)


def _prepare(folder: Path, num_bytes: int) -> None:
    """Create the folder for shards of that size; StorageError in all processes if one of them cannot write them."""
    reason = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_space(folder / HEADER, num_bytes)
    except OSError as error:
        reason = error.strerror or str(error)
    if found := next((reason for reason in all_gather_objects(reason) if reason), None):
        shutil.rmtree(folder, ignore_errors=True)
        raise _not_written(folder, found)


def _save(folder: Path, tensors: dict[str, DTensor], writer: Any) -> None:
    """Write the shards; StorageError in all processes if one of them fails."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(tensors, storage_writer=writer(folder))
    except CheckpointException as error:
        failed = next(iter(error.failures.values()))[0]
        of_disk = failed.strerror if isinstance(failed, OSError) else None
        raise _not_written(folder, of_disk or first_sentence(failed).rstrip(".")) from error


def _not_written(folder: Path, reason: str) -> StorageError:
    return StorageError(f"{folder} cannot be written: {reason}. {ADVICE}", path=folder)


def _writer() -> Any:
    """A writer of safetensors; ConfigError if this torch has none."""
    # Imported where it is used: half a second that most runs don't need.
    from torch.distributed import checkpoint as dcp

    found = getattr(dcp, "HuggingFaceStorageWriter", None)
    if found is None or "save_distributed" not in inspect.signature(found).parameters:
        raise ConfigError(f"trainer_strategy=fsdp2 needs torch 2.9 or newer; this is {torch.__version__}.")
    return lambda folder: found(str(folder), save_distributed=True)


def _split_tensors(node: Any, keys: Keys) -> Iterator[tuple[Keys, DTensor]]:
    """The tensors in nested dictionaries and lists that are split over processes, with their places."""
    if isinstance(node, DTensor):
        yield keys, node
    elif isinstance(node, Mapping | list | tuple):
        for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _split_tensors(child, (*keys, key))


def _set(node: Any, keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value


def _write_header(header: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(header, file)
        file.flush()
        os.fsync(file.fileno())


def _sums(file: Path) -> tuple[str, list[int]]:
    size, crc = 0, 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return file.name, [size, crc]


def _replace_index(folder: Path, index: dict[str, Any]) -> None:
    new = folder / f".{INDEX}"
    with new.open("w", encoding="utf-8") as file:
        json.dump(index, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / INDEX)


# Reading.


def _read_index(path: Path, verify: bool) -> Path:
    """The folder with the files of a checkpoint, after checking that they are there (and unchanged, if `verify`)."""
    if not is_sharded(path):
        raise CheckpointError(f"There is no checkpoint at {path}.", path=path)
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        name, files = str(index["folder"]), {str(file): list(sums) for file, sums in index["files"].items()}
        version = index["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorruptError(path, f"{INDEX} is not the index of a checkpoint ({error})") from error
    if version != _FORMAT:
        raise CheckpointCorruptError(path, f"its format is {version}, and this version of xlm reads {_FORMAT}")
    for part in (name, *files):
        if Path(part).name != part or part in ("", ".", ".."):
            raise CheckpointCorruptError(path, f"{INDEX} names '{part}', which is not a file in the folder")
    folder = path / name
    for file, (size, crc) in files.items():
        found = folder / file
        if not found.is_file() or found.stat().st_size != size:
            raise CheckpointCorruptError(path, f"{name}/{file} is missing or has another size")
        if verify and _sums(found)[1][1] != crc:
            raise CheckpointCorruptError(path, f"{name}/{file} does not match its checksum")
    if stray := sorted({file.name for file in folder.glob("*.safetensors")} - files.keys()):
        raise CheckpointCorruptError(path, f"{name} has files that {INDEX} does not list: {', '.join(stray[:8])}")
    return folder


def _verify_together(path: Path, folder: Path) -> None:
    """Compute the checksums of all files, each in one process; CheckpointCorruptError in all if one doesn't match."""
    files = json.loads((path / INDEX).read_text(encoding="utf-8"))["files"]
    mine = sorted(files)[distributed.get_rank() :: distributed.get_world_size()]
    damaged = [name for name in mine if _sums(folder / name)[1] != files[name]]
    if found := [name for names in all_gather_objects(damaged) for name in names]:
        raise CheckpointCorruptError(
            path,
            f"{folder.name}/{found[0]} does not match its checksum.\nRemove the folder to continue from an older one",
        )


def _read_header(path: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Keys], dict[str, str]]:
    """The content without shards, the places of the shards, and the names of tied parameters."""
    try:
        check_archive(folder / HEADER)
        header = torch.load(folder / HEADER, map_location="cpu", weights_only=True)
        places = {str(key): tuple(keys) for key, keys in header["places"].items()}
        checkpoint, tied = header["checkpoint"], dict(header["tied"])
        checkpoint["state_dict"], _ = checkpoint["state_dict"], checkpoint["global_step"]
    except Exception as error:  # torch raises many kinds for damaged or foreign files
        raise CheckpointCorruptError(path, f"{folder.name}/{HEADER}: {str(error).splitlines()[0]}") from error
    return checkpoint, places, tied


def _reader(folder: Path) -> Any:
    from torch.distributed import checkpoint as dcp

    found = getattr(dcp, "HuggingFaceStorageReader", None)
    if found is None:
        raise CheckpointError(f"{folder} needs torch 2.9 or newer; this is {torch.__version__}.", path=folder)
    return found(str(folder))


def read_shards(path: str | Path, with_tensors: bool = True) -> dict[str, Any]:
    """A sharded checkpoint as if one process had written it, in the format of a `.ckpt` file.

    Args:
        path: the folder.
        with_tensors: False: weights and states have the right shapes, but no data (on torch's meta device), and the
            checksums are not computed.

    Raises:
        CheckpointError: it does not exist; CheckpointCorruptError: it is damaged or incomplete.
    """
    path = Path(path)
    folder = _read_index(path, verify=with_tensors)
    checkpoint, places, tied = _read_header(path, folder)
    try:
        reader = _reader(folder)
        found = reader.read_metadata().state_dict_metadata
        device = "cpu" if with_tensors else "meta"
        tensors = {
            key: torch.empty(found[key].size, dtype=found[key].properties.dtype, device=device) for key in places
        }
        if with_tensors and tensors:
            from torch.distributed.checkpoint.state_dict_loader import load

            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                load(tensors, storage_reader=_reader(folder), no_dist=True)
        for key, keys in places.items():
            _set(checkpoint, keys, tensors[key])
    except CheckpointError:
        raise
    except Exception as error:  # as above; also safetensors' and DCP's own
        raise CheckpointCorruptError(path, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    weights = checkpoint["state_dict"]
    weights |= {name: weights[first] for name, first in tied.items() if first in weights}
    checkpoint["optimizer_states"] = [_by_number(state) for state in checkpoint.get("optimizer_states", [])]
    return checkpoint


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with the numbers of parameters instead of their names, as `Optimizer.state_dict` has it."""
    numbers: dict[str, int] = {}
    groups = []
    for group in state["param_groups"]:
        numbers |= {name: len(numbers) + place for place, name in enumerate(group["params"])}
        groups.append({**group, "params": [numbers[name] for name in group["params"]]})
    return {"state": {numbers[name]: values for name, values in state["state"].items()}, "param_groups": groups}


def load_shards(path: Path, parameters: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A checkpoint with the shards of this process, for any number of processes; all must call this.

    Args:
        path: the folder.
        parameters: name → the split parameter, which tells how to split every tensor that belongs to it.

    Raises:
        CheckpointError: it does not exist, is damaged, or has tensors for other parameters.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    folder = _read_index(path, verify=False)
    _verify_together(path, folder)
    checkpoint, places, tied = _read_header(path, folder)
    found = _reader(folder).read_metadata().state_dict_metadata
    shards: dict[str, torch.Tensor] = {}
    for key, keys in places.items():
        parameter = next((parameters[name] for name in map(str, keys) if name in parameters), None)
        if parameter is None or key not in found or parameter.shape != found[key].size:
            raise CheckpointError(f"The checkpoint {path} does not fit the model: {key}.", path=path)
        shards[key] = torch.zeros_like(parameter.detach(), dtype=found[key].properties.dtype)
    load(shards, storage_reader=_reader(folder))
    for key, keys in places.items():
        _set(checkpoint, keys, shards[key])
    weights = checkpoint["state_dict"]
    weights |= {name: weights[first] for name, first in tied.items() if first in weights}
    return checkpoint

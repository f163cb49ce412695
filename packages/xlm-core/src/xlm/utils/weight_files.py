"""Weights on disk: one safetensors file, or shards with an index of the tensors in each."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from xlm.errors import CheckpointCorruptError, CheckpointError, ConfigError, as_line

logger = logging.getLogger(__name__)

# Added to the names of weights by DDP, torch.compile, FSDP and activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# File names of transformers and the hub.
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SUFFIXES = (".safetensors", ".safetensors.index.json")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")


def is_weights_alone(path: str | Path) -> bool:
    """Whether a file is safetensors, or an index of shards, by its name; otherwise it is a checkpoint."""
    return str(path).endswith(_SUFFIXES)


def weights_in(folder: Path) -> Path | None:
    """`model.safetensors` of a folder, otherwise its index of shards; None if it has none."""
    return next((folder / name for name in (WEIGHTS, INDEX) if (folder / name).is_file()), None)


def whole(path: Path) -> Path:
    """The index next to a shard, since one shard is not a model; any other path is returned unchanged."""
    found = _SHARD.fullmatch(path.name)
    index = path.with_name(f"{found.group(1)}.safetensors.index.json") if found else path
    return index if index.is_file() else path


def check_inside(file: Path, folder: Path) -> None:
    """CheckpointCorruptError if a file of an exported folder is a link to a place outside it.

    The hub's cache is allowed: its folders hold links to `../../blobs`.
    """
    real, inside = file.resolve(), folder.resolve()
    if not any(real.is_relative_to(place) for place in (inside, inside.parent.parent / "blobs")):
        raise CheckpointCorruptError(file, "it is a link to a file outside its folder")


def read_index(path: Path) -> dict[str, str]:
    """Tensor → file name beside the index.

    Raises:
        CheckpointCorruptError: it is not an index of shards, or names a file elsewhere.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): str(file) for name, file in content["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorruptError(path, f"it is not an index of shards ({type(error).__name__})") from error
    for file in files.values():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointCorruptError(path, as_line(f"it names '{file}', which is not a file in the same folder"))
    return files


def read_weights(path: str | Path, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of the shards of an index.

    Raises:
        CheckpointError: the file does not exist, or a shard is missing.
        CheckpointCorruptError: one cannot be read, or a shard lacks tensors that the index lists for it.
    """
    path = whole(Path(path))
    if not path.is_file():
        raise CheckpointError(f"There are no weights at {path}.", path=path)
    if path.name.endswith(".safetensors"):
        return _read(path, device)
    files = read_index(path)
    shards = sorted(set(files.values()))
    if missing := [name for name in shards if not (path.parent / name).is_file()]:
        raise CheckpointError(f"{path} names shards that do not exist: {', '.join(missing)}.", path=path)
    for shard in shards:
        check_inside(path.parent / shard, path.parent)
    state_dict: dict[str, Tensor] = {}
    for shard in shards:
        found = _read(path.parent / shard, device)
        if lacking := sorted(name for name, file in files.items() if file == shard and name not in found):
            raise CheckpointCorruptError(
                path.parent / shard, as_line(f"it lacks {', '.join(lacking[:8])}, which its index lists")
            )
        state_dict |= found
    return state_dict


def _read(path: Path, device: str) -> dict[str, Tensor]:
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointCorruptError(path, str(error).splitlines()[0] if str(error) else "it is too large") from error


def without_wrappers(
    state_dict: Mapping[str, Tensor], names: Iterable[str], source: str | Path, owner: str = ""
) -> dict[str, Tensor]:
    """The state dict with the network's own names, if they differ only by names of wrappers; logs the change.

    Args:
        state_dict: as saved, perhaps from inside DDP, FSDP or torch.compile.
        names: of the network's own weights; these are never changed.
        source: for the message.
        owner: the prefix of the names if the network was saved as an attribute: `model.`.
    """
    own = set(names)
    wanted = {_unwrapped(name): name for name in own}
    renamed: dict[str, Tensor] = {}
    left_out: set[str] = set()
    for name, tensor in state_dict.items():
        bare = _unwrapped(name)
        alone = bare.removeprefix(owner)
        new = name if name in own else wanted.get(bare, wanted.get(alone, name))
        if new in renamed:
            return dict(state_dict)  # two weights with the same name: the mismatch message names both
        renamed[new] = tensor
        if new != name:
            left_out |= {f"{part}." for part in WRAPPERS if part in name.split(".")}
            left_out |= {owner} if bare not in wanted else set()
    if left_out:
        logger.warning("%s: the weights were saved from inside a wrapper; %s is removed from their names.",
                       source, " and ".join(sorted(left_out)))  # fmt: skip
    return renamed


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def check_shard_size(size: int | str, key: str = "max_shard_size") -> int | str:
    """The size if `split_weights` accepts it, otherwise ConfigError."""
    number = re.fullmatch(r"(\d+)\s*([KMGT]B)?", str(size).upper())
    if isinstance(size, bool) or number is None or int(number.group(1)) == 0:
        raise ConfigError(f"{key} is {size!r}, and must be bytes, or a number with KB, MB, GB or TB: 5GB.", key=key)
    return size if number.group(2) else int(number.group(1))


def split_weights(path: Path, max_shard_size: int | str) -> list[Path]:
    """Split `model.safetensors` into shards with an index if it is larger than one shard; returns the files of weights.

    A tensor is never split, so one larger than `max_shard_size` (bytes, or "5GB") gets its own shard.
    """
    state_dict = load_file(path)
    split = split_torch_state_dict_into_shards(state_dict, max_shard_size=check_shard_size(max_shard_size))
    if not split.is_sharded:
        return [path]
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    for file, names in split.filename_to_tensors.items():
        save_file({name: state_dict[name] for name in names}, path.with_name(file), metadata=metadata)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    path.with_name(INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.unlink()
    return [path.with_name(file) for file in split.filename_to_tensors]

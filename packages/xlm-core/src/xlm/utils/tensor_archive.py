"""Checks a file of `torch.save` before it is read: its parts, their sizes and checksums; and what was read from it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor


def check_archive(path: Path) -> None:
    """Raise zipfile.BadZipFile if a file is not an undamaged archive as `torch.save` writes it.

    Its parts are stored uncompressed and one after the other, so a small file cannot grow when it is read.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED or part.flag_bits & 1 for part in parts):
            raise zipfile.BadZipFile("it has compressed or encrypted parts, which checkpoints don't have")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts are larger than the file")
        if len({part.filename for part in parts}) < len(parts):
            raise zipfile.BadZipFile("it has two parts of the same name")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"its part {damaged} does not match its checksum")


def unusable_part(checkpoint: dict[Any, Any], average_key: str) -> str:
    """What is wrong with the contents of a checkpoint, after "it"; empty if jobs can use them."""
    saved = checkpoint.get(average_key)
    if saved is not None and not (isinstance(saved, dict) and isinstance(saved.get("average"), dict)):
        return f"has no averaged weights under '{average_key}'"
    for weights in (checkpoint["state_dict"], {} if saved is None else saved["average"]):
        for name, tensor in weights.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                return f"has a {type(tensor).__name__} where the weight {str(name)[:80]!r} should be"
            if not _is_backed(tensor):
                return f"declares more values for {name[:80]!r} than it has"
    if (path := next(_escaping_paths(checkpoint.get("callbacks")), None)) is not None:
        return f"has the path {path!r:.200}, which leaves its folder"
    if not isinstance(checkpoint.get("xlm_config", ""), str):
        return "has a configuration that is not text"
    return ""


def _escaping_paths(state: Any) -> Iterator[str]:
    """Paths with `..` in the states of callbacks: those of Lightning delete the files that they name."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from _escaping_paths(name)
            yield from _escaping_paths(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _escaping_paths(value)
    elif isinstance(state, str) and ".." in state.replace("\\", "/").split("/"):
        yield state


def _is_backed(tensor: Tensor) -> bool:
    """Whether each value of a tensor is stored; one expanded by strides of 0 may have any declared size."""
    if tensor.is_sparse or tensor.is_quantized or tensor.device.type == "meta":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()

"""From the name that a config gives to the source of raw examples."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from xlm.data.file_rows import FILE_TYPES, check_type, type_of_file
from xlm.data.selection import AS_USUAL, Reading, Slice, without_slice
from xlm.data.sources import (
    FileSource,
    FilesSource,
    FirstRows,
    FolderSource,
    GeneratorSource,
    HeldOutPart,
    HubSource,
    JoinedSource,
    SavedSource,
    Source,
    no_such_file,
)
from xlm.errors import DataError
from xlm.utils.imports import get_function
from xlm.utils.instantiate import parameter_names

# A file, a list of files and patterns, a folder or a hub name; or the parts of a mixture by name, each of them a source
# or the fields of a data set.
Named = str | Sequence[str] | Mapping[str, Any]


def locate(
    full_name: Named | None,
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    dataset_constructor_str: str | None = None,
    dataset_kwargs: Mapping[str, Any] | None = None,
    num_examples: int | None = None,
    reading: Reading = AS_USUAL,
) -> Source:
    """The source that a data set's config describes; `DataError` when it describes none.

    `full_name` is a file, a list of files, a pattern such as `data/*.jsonl`, a folder, or
    `owner/dataset[/config]/split` on the hub; `name` (config) and `split` can be given separately. A slice of the
    rows in brackets may follow: `data.csv[:95%]`, `folder/train[1000:]`. Without a name, `dataset_constructor_str` is
    called `cls(tokenizer, num_examples, **kwargs)`, with `split` if it takes one.
    """
    if not full_name and dataset_constructor_str is not None:
        kwargs = dict(dataset_kwargs or {})
        # Generators of published models don't expect it.
        if split is not None and "split" in parameter_names(get_function(dataset_constructor_str)):
            kwargs.setdefault("split", split)
        generator = GeneratorSource(dataset_constructor_str, num_examples, kwargs)
        return reading.selected(generator)
    if not full_name:
        raise DataError("A dataset needs full_name (a file, a folder or a hub name) or dataset_constructor_str.")
    if isinstance(full_name, Mapping):
        return _joined(full_name, num_examples, reading)
    if not isinstance(full_name, str):
        source: Source = _files(list(chain.from_iterable(_listed_files(each) for each in full_name)), reading)
    else:
        local = _local(full_name, split, reading)
        source = local if local is not None else _on_hub(full_name, name, split, revision)
    source = reading.selected(source)
    return source if num_examples is None else FirstRows(source, num_examples)


def _joined(parts: Mapping[str, Any], num_examples: int | None, reading: Reading) -> Source:
    """The sources of a mixture's parts, without those that are generated."""
    sources = []
    for part in parts.values():
        fields = part if isinstance(part, Mapping) else {"full_name": part}
        if named := fields.get("data_file") or fields.get("full_name"):
            place = {name: fields.get(name) for name in ("name", "split", "revision")}
            sources.append(locate(named, **place, reading=reading))
    if not sources:
        raise DataError("No part of the mixture names a file, a folder or a data set on the hub.")
    source = sources[0] if len(sources) == 1 else JoinedSource(tuple(sources))
    return source if num_examples is None else FirstRows(source, num_examples)


def part_of_files(
    files: Mapping[str, Named | None],
    part: str,
    held_out: Mapping[str, float],
    reading: Reading = AS_USUAL,
) -> Source:
    """The source of `part` (train, val or test) of a user's own data.

    Args:
        files: part → file, folder or hub name; a part without one is held out from that of `train`.
        held_out: part → share of the training rows.

    Raises:
        DataError: `train` has no file, or shares leave nothing to train on.
    """
    if not files.get("train"):
        raise DataError("data_files.train names no data. Give a file, a folder or owner/dataset/split on the hub.")
    shares = tuple((name, float(share)) for name, share in held_out.items() if not files.get(name) and share)
    if any(share < 0 for _, share in shares) or sum(share for _, share in shares) >= 1:
        raise DataError(f"held_out must leave rows to train on, but is {dict(shares)}.")
    named = files.get(part)
    if named and part != "train":
        return locate(named, reading=reading)
    if part != "train" and part not in dict(shares):
        raise DataError(f"There are no data for {part}: give data_files.{part}, or held_out.{part} above 0.")
    source = locate(files["train"], reading=reading)
    return HeldOutPart(source, part, shares) if shares else source


def _local(full_name: str, split: str | None, reading: Reading = AS_USUAL) -> Source | None:
    """A file or folder of this name, a folder followed by the name of a split, or a slice of one of these."""
    whole, bounds = without_slice(full_name)
    if bounds is None or split is not None or Path(full_name).expanduser().exists():
        return _whole(full_name, split, reading)
    source = _whole(whole, None, reading)
    if isinstance(source, FolderSource) and source.split is not None and "+" in source.split:
        return FolderSource(source.folder, source.split + full_name[len(whole) :], reading)
    return source if source is None else Slice(source, *bounds)


def _whole(full_name: str, split: str | None, reading: Reading) -> Source | None:
    path = Path(full_name).expanduser()
    if glob.has_magic(full_name) and not path.exists():
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not found:
            slices = " A slice has whole numbers or percentages: [:95%], [1000:], [-10%:]."
            looks_sliced = re.search(r"\[[^\]]*:[^\]]*\]$", full_name)
            raise DataError(f"No file matches {full_name}.{slices if looks_sliced else ''}")
        return _files(found, reading)
    if path.is_file():
        check_type(path)
        return _part_of_file(FileSource(path, reading), split)
    if path.is_dir():
        return _folder(path, split, reading)
    if path.parent.is_dir() and split is None and path.parent != Path():
        if type_of_file(path) in FILE_TYPES:
            raise no_such_file(path)
        return _folder(path.parent, path.name, reading)
    is_file_name = "/" not in full_name and path.suffix != ""
    if type_of_file(path) in FILE_TYPES or is_file_name or path.is_absolute() or full_name.startswith((".", "~")):
        raise no_such_file(path)
    return None


def _part_of_file(file: FileSource, split: str | None) -> Source:
    """A file is the split `train`, as in `datasets`, or what its name says; a slice of it may follow."""
    name, bounds = without_slice(split or "")
    if name not in ("", "train", file.name):
        raise DataError(f"{file.path} is a single file, so it has no split '{split}'. Name the file alone.")
    return file if bounds is None else Slice(file, *bounds)


def _listed_files(name: str) -> list[Path]:
    """The files of an entry of a list; DataError for a folder or a name on the hub."""
    source = _local(name, None)
    if isinstance(source, FileSource):
        return [source.path]
    if isinstance(source, FilesSource):
        return list(source.paths)
    raise DataError(f"A list of sources takes files and patterns, not {name}.")


def _files(paths: list[Path], reading: Reading) -> Source:
    for path in paths:
        check_type(path)
    return FileSource(paths[0], reading) if len(paths) == 1 else FilesSource(tuple(paths), reading)


def _folder(path: Path, split: str | None, reading: Reading) -> Source:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        whole, bounds = without_slice(split or "")
        saved = SavedSource(path, whole or None)
        return saved if bounds is None else Slice(saved, *bounds)
    return FolderSource(path, split, reading)


def _on_hub(full_name: str, config: str | None, split: str | None, revision: str | None) -> HubSource:
    """`owner/dataset`, `owner/dataset/split` or `owner/dataset/config/split`."""
    parts = full_name.split("/")
    if len(parts) > 4 or not all(parts):
        raise DataError(f"'{full_name}' is not the name of a data set. Write owner/dataset[/config]/split.")
    if len(parts) == 4 and config is None:
        config = parts[2]
    if len(parts) >= 3 and split is None:
        split = parts[-1]
    return HubSource("/".join(parts[:2]), config, split, revision)

"""Where raw examples come from: a generator, local files, a saved data set, or the Hugging Face hub."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from xlm.data.hashing import code_version, file_digest
from xlm.data.joined import JoinedSource
from xlm.data.selection import Reading, Selection, Slice, without_slice
from xlm.errors import DataError, did_you_mean, nearest_names
from xlm.utils.imports import get_function
from xlm.utils.instantiate import parameter_names
from xlm.utils.text_files import (
    COMPRESSED,
    AmountRead,
    Row,
    name_of_kind,
    read_json,
    read_json_lines,
    read_lines,
    read_table,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


ROWS_AT_ONCE = 1000


_AS_USUAL = Reading()


def rows_of_file(path: Path, reading: Reading = _AS_USUAL) -> Iterator[Row]:
    """The rows of a file, by its ending.

    Raises:
        DataError: the file is damaged, or a row is not an object; the message names file and row.
    """
    try:
        yield from _READERS[type_of_file(path)](path, reading)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{path} cannot be read as {type_of_file(path)[1:]}: {reason}") from error


def type_of_file(path: Path) -> str:
    """The ending that says what a file holds: `.jsonl` for `a.jsonl` and `a.jsonl.gz`."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def _text(path: Path, reading: Reading) -> Iterator[Row]:
    return (Row({"text": line.text}, line.where) for line in read_lines(path, encoding=reading.encoding))


def _comma_separated(path: Path, reading: Reading) -> Iterator[Row]:
    return read_table(path, reading.delimiter or ",", reading.encoding)


def _tab_separated(path: Path, reading: Reading) -> Iterator[Row]:
    return read_table(path, reading.delimiter or "\t", reading.encoding)


def _json_lines(path: Path, reading: Reading) -> Iterator[Row]:
    for row in read_json_lines(path, encoding=reading.encoding):
        yield _object(row)


def _json(path: Path, reading: Reading) -> Iterator[Row]:
    """A list of objects, or an object that contains one list of them."""
    loaded = read_json(path, reading.encoding)
    if isinstance(loaded, dict):
        lists = [value for value in loaded.values() if isinstance(value, list)]
        loaded = lists[0] if len(lists) == 1 else None
    if not isinstance(loaded, list):
        raise DataError(f"{path} does not contain a list of objects. For one object per line, use the suffix .jsonl.")
    return (_object(row) for row in _numbered(path, loaded))


def _object(row: Row) -> Row:
    if not isinstance(row.value, dict):
        raise DataError(f'{row.where} is {name_of_kind(row.value)}, not an object such as {{"text": "…"}}.')
    return row


def _parquet(path: Path, reading: Reading) -> Iterator[Row]:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    return _rows_of_batches(path, file.iter_batches(batch_size=ROWS_AT_ONCE), file.metadata.num_rows)


def _arrow(path: Path, reading: Reading) -> Iterator[Row]:
    """Arrow's file format, or the stream format that `datasets` writes."""
    source = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    return _rows_of_batches(path, table.to_batches(max_chunksize=ROWS_AT_ONCE), table.num_rows)


def _rows_of_batches(path: Path, batches: Iterable[pa.RecordBatch], num_rows: int) -> Iterator[Row]:
    bytes_per_row = path.stat().st_size / max(num_rows, 1)

    def lists() -> Iterator[list[Any]]:
        for batch in batches:
            yield batch.to_pylist()
            AmountRead.num_bytes += batch.num_rows * bytes_per_row

    return _numbered(path, chain.from_iterable(lists()))


def _numbered(path: Path, values: Iterable[Any]) -> Iterator[Row]:
    return (Row(value, f"{path}, row {number}") for number, value in enumerate(values, 1))


_READERS: dict[str, Callable[[Path, Reading], Iterator[Row]]] = {
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _text,
}
FILE_TYPES = tuple(_READERS)
_NOT_UNPACKED = (".parquet", ".arrow")  # which compress their columns themselves


# Smaller local files are identified by content, larger ones by size, modification time and samples.
_CONTENT_BYTES = 64 * 2**20


class Source(Protocol):
    """Raw examples. `identity` is plain data that changes whenever the examples may change.

    `where(number)` describes the place of a row, counted from 0, for messages.
    """

    @property
    def name(self) -> str: ...

    def identity(self) -> dict[str, Any]: ...

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]: ...

    def where(self, number: int) -> str: ...


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
    reading: Reading = _AS_USUAL,
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


# The reason for which `FirstRows` leaves out rows, whose number it doesn't know.
AFTER_NUM_EXAMPLES = "after num_examples"


@dataclass(frozen=True)
class FirstRows:
    """The first `num_examples` of another source; `removed` says whether there are more."""

    source: Source
    num_examples: int
    removed: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.source.name

    def identity(self) -> dict[str, Any]:
        return {"first": self.num_examples, "of": self.source.identity()}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        rows = iter(self.source.rows(tokenizer))
        yield from islice(rows, self.num_examples)
        self.removed.clear()
        if next(rows, None) is not None:
            self.removed[AFTER_NUM_EXAMPLES] = 1

    def where(self, number: int) -> str:
        return self.source.where(number)


@dataclass(frozen=True)
class HeldOutPart(Selection):
    """The rows of one part of another source: `train`, or one that is held out.

    A hash of a row decides its part, so it never changes, and equal rows are in the same part.

    Args:
        shares: (part, share of the rows) of every part that is held out.
    """

    part: str
    shares: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        return f"{self.source.name}-{self.part}"

    def identity(self) -> dict[str, Any]:
        return {"part": self.part, "shares": [list(share) for share in self.shares], "of": self.source.identity()}

    def _numbered_rows(self, tokenizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = enumerate(self.source.rows(tokenizer))
        return ((number, row) for number, row in rows if self.has(row))

    def has(self, row: Any) -> bool:
        """Whether a row of the source belongs to this part."""
        return self._part_of(row) == self.part

    def _part_of(self, row: Any) -> str:
        text = json.dumps(row, sort_keys=True, default=str, ensure_ascii=True)
        place = int.from_bytes(sha256(text.encode()).digest()[:8]) / 2**64
        for part, share in self.shares:
            if place < share:
                return part
            place -= share
        return "train"


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
    reading: Reading = _AS_USUAL,
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


@dataclass(frozen=True)
class GeneratorSource:
    """The examples from a class or function, called `constructor(tokenizer, num_examples, **kwargs)`.

    If it reads anything else, it should identify that by plain data in `constructor.source_identity()`. An argument
    `path` names a file or folder that it reads instead.
    """

    constructor: str
    num_examples: int | None
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        choices = [str(self.kwargs[key]) for key in ("difficulty", "split") if key in self.kwargs]
        return "-".join([self.constructor.rpartition(".")[2], *choices])

    def identity(self) -> dict[str, Any]:
        constructor = get_function(self.constructor)
        identity = {
            "constructor": self.constructor,
            "code": code_version(constructor),
            "num_examples": self.num_examples,
            "kwargs": self.kwargs,
        }
        if path := self.kwargs.get("path"):
            place = _existing(Path(path).expanduser())
            return identity | {"file": _folder_identity(place) if place.is_dir() else _file_identity(place)}
        more = getattr(constructor, "source_identity", None)
        return identity if more is None else identity | {"reads": more()}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        examples = get_function(self.constructor)(tokenizer, self.num_examples, **self.kwargs)
        # The constructor gets the number; one that never ends is cut off.
        return islice(examples, self.num_examples)

    def where(self, number: int) -> str:
        return f"{self.constructor}, example {number + 1}"


@dataclass(frozen=True)
class FileSource:
    """One local file of rows: CSV, TSV, JSON lines, JSON, Parquet, Arrow, or one text per line."""

    path: Path
    reading: Reading = _AS_USUAL

    @property
    def name(self) -> str:
        return self.path.stem

    def identity(self) -> dict[str, Any]:
        return {"file": _file_identity(self.path), **self.reading.of_files()}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return (row.value for row in rows_of_file(self.path, self.reading))

    def where(self, number: int) -> str:
        rows = rows_of_file(self.path, self.reading)
        return next(islice((row.where for row in rows), number, None), str(self.path))

    def num_bytes(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True)
class FilesSource:
    """Several local files, one after the other."""

    paths: tuple[Path, ...]
    reading: Reading = _AS_USUAL

    @property
    def name(self) -> str:
        return f"{self.paths[0].stem}-and-{len(self.paths) - 1}-more"

    @property
    def path(self) -> str:
        """What messages call them."""
        return f"{self.paths[0]} and {len(self.paths) - 1} more"

    def identity(self) -> dict[str, Any]:
        return {"files": [_file_identity(path) for path in self.paths], **self.reading.of_files()}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return (row.value for row in _rows_of(self.paths, self.reading))

    def where(self, number: int) -> str:
        return next(islice((row.where for row in _rows_of(self.paths, self.reading)), number, None), self.path)

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class _Folder:
    """A split of a folder."""

    folder: Path
    split: str | None

    @property
    def name(self) -> str:
        return f"{self.folder.name}-{self.split}" if self.split else self.folder.name


@dataclass(frozen=True)
class SavedSource(_Folder):
    """A folder that `datasets` saved: one data set, or a dict of splits."""

    def identity(self) -> dict[str, Any]:
        return {"saved": _folder_identity(self.folder), "split": self.split}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return _dataset_rows(self.dataset())

    def dataset(self) -> Dataset:
        """The split, memory-mapped."""
        from datasets import DatasetDict, load_from_disk

        loaded = load_from_disk(str(self.folder))
        if isinstance(loaded, DatasetDict):
            loaded = _pick_split(loaded, self.split, str(self.folder))
        elif self.split is not None and self.split != str(loaded.split):
            own = f"is the split '{loaded.split}'" if loaded.split is not None else "has no splits"
            raise DataError(f"{self.folder} {own}, so it has no split '{self.split}'. Name the folder alone.")
        return loaded

    def where(self, number: int) -> str:
        return f"{self.folder}{f' ({self.split})' if self.split else ''}, row {number + 1}"


@dataclass(frozen=True)
class FolderSource(_Folder):
    """The files of one split of a local folder: `datasets` finds them, and each is read like a single file."""

    reading: Reading = _AS_USUAL

    def identity(self) -> dict[str, Any]:
        return {"files": _folder_identity(self.folder), "split": self.split, **self.reading.of_files()}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return (row.value for row in self._rows())

    def where(self, number: int) -> str:
        return next(islice((row.where for row in self._rows()), number, None), str(self.folder))

    def files(self) -> list[Path] | None:
        """The files of a whole split; None for a slice of splits."""
        return self._splits().get(self.split or "")

    def _rows(self) -> Iterator[Row]:
        splits = self._splits()
        if self.split in splits:
            return _rows_of(splits[self.split], self.reading)
        return self._slices(splits)

    def _slices(self, splits: Mapping[str, list[Path]]) -> Iterator[Row]:
        """The meaning of a split like `train[:10]` or `train+test`; it may need the number of rows."""
        from datasets import ReadInstruction

        asked, before = self.split or "", AmountRead.num_bytes
        found = {name: files for name, files in splits.items() if name in asked}
        lengths = {name: sum(1 for _ in _rows_of(files, self.reading)) for name, files in found.items()}
        AmountRead.num_bytes = before  # the rows are read again
        try:
            slices = ReadInstruction.from_spec(asked).to_absolute(lengths)
        except ValueError as error:
            said = f"has no split '{asked}'" if asked else "needs the name of a split"
            raise DataError(
                f"The folder {self.folder} {said}; it has: {', '.join(splits)}. "
                f"Write {self.folder}/{next(iter(splits))}."
            ) from error
        return chain.from_iterable(
            islice(_rows_of(splits[each.splitname], self.reading), each.from_, each.to) for each in slices
        )

    def num_bytes(self) -> int | None:
        """None for a part of a split."""
        files = self._splits().get(self.split or "")
        return None if files is None else sum(path.stat().st_size for path in files)

    def _splits(self) -> dict[str, list[Path]]:
        from datasets import load_dataset_builder

        try:
            found = load_dataset_builder(str(self.folder)).config.data_files or {}
        except (OSError, ValueError) as error:  # no data files, or no way to assign them to splits
            raise DataError(f"The folder {self.folder} has no readable data files: {error}") from error
        splits = {str(split): [Path(path) for path in paths] for split, paths in found.items()}
        for path in chain.from_iterable(splits.values()):
            _check_type(path)
        return splits


def _rows_of(files: Iterable[Path], reading: Reading) -> Iterator[Row]:
    return chain.from_iterable(rows_of_file(path, reading) for path in files)


@dataclass(frozen=True)
class HubSource:
    """A data set that `datasets.load_dataset` finds on the hub."""

    path: str
    config: str | None
    split: str | None
    revision: str | None

    @property
    def name(self) -> str:
        parts = (self.path.rpartition("/")[2], self.config, self.split)
        return "-".join(part for part in parts if part)

    def identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"hub": self.path, "config": self.config, "split": self.split}
        return identity | {"revision": self.revision}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return _dataset_rows(self._loaded(streaming=False))

    def iterable(self) -> IterableDataset:
        """The rows in shards that are read while they are downloaded."""
        found: IterableDataset = self._loaded(streaming=True)
        return found

    def _loaded(self, streaming: bool) -> Any:
        from datasets import load_dataset

        if self.split is None:
            raise DataError(f"Which split of {self.path}? Write {self.path}/train, or split: train.")
        try:
            return load_dataset(self.path, self.config, split=self.split, revision=self.revision, streaming=streaming)
        except (OSError, ValueError) as error:  # not found, offline, no such config or split
            raise DataError(
                f"The data set {self.name} ({self.path}) cannot be loaded: {error}\n"
                "It is not a local file or folder, and the hub did not provide it. A mirror with the same columns "
                "can be used instead: full_name=path/to/mirror/train."
            ) from error

    def where(self, number: int) -> str:
        return f"{self.path}{f' ({self.split})' if self.split else ''}, row {number + 1}"


def _local(full_name: str, split: str | None, reading: Reading = _AS_USUAL) -> Source | None:
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
            raise DataError(f"No file matches {full_name}.")
        return _files(found, reading)
    if path.is_file():
        _check_type(path)
        return _part_of_file(FileSource(path, reading), split)
    if path.is_dir():
        return _folder(path, split, reading)
    if path.parent.is_dir() and split is None and path.parent != Path():
        if type_of_file(path) in FILE_TYPES:
            raise _no_such_file(path)
        return _folder(path.parent, path.name, reading)
    is_file_name = "/" not in full_name and path.suffix != ""
    if type_of_file(path) in FILE_TYPES or is_file_name or path.is_absolute() or full_name.startswith((".", "~")):
        raise _no_such_file(path)
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
        _check_type(path)
    return FileSource(paths[0], reading) if len(paths) == 1 else FilesSource(tuple(paths), reading)


def _check_type(path: Path) -> None:
    kind, is_packed = type_of_file(path), path.suffix in COMPRESSED
    if kind not in FILE_TYPES or (is_packed and kind in _NOT_UNPACKED):
        packed = f", also with {', '.join(COMPRESSED)} for text"
        raise DataError(f"{path} is not of a known type: {', '.join(FILE_TYPES)}{packed}.")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise _no_such_file(path)
    return path


def _no_such_file(path: Path) -> DataError:
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(nearest_names(path.name, siblings))
    return DataError(f"No such file or folder of data: {path}. {hint}".rstrip())


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


def _pick_split(splits: Mapping[str, Dataset], split: str | None, where: str) -> Dataset:
    if split is None or split not in splits:
        raise DataError(f"{where} has no split '{split}'; it has: {', '.join(splits)}.")
    return splits[split]


def _dataset_rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    AmountRead.of_rows, AmountRead.num_rows = len(dataset), 0
    for table in dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        yield from table.to_pylist()
        AmountRead.num_rows += table.num_rows


def _file_identity(path: Path) -> dict[str, Any]:
    status = path.stat()
    if status.st_size <= _CONTENT_BYTES:
        return {"name": path.name, "sha256": _content(path.resolve(), status.st_size, status.st_mtime_ns)}
    changed = {"bytes": status.st_size, "changed_ns": status.st_mtime_ns}
    return {"name": str(path.resolve()), **changed, "samples": _samples(path.resolve(), *changed.values())}


# Several data sets of a run, and its tokenizer, have the same files.
@lru_cache(maxsize=4096)
def _content(path: Path, num_bytes: int, changed_ns: int) -> str:
    return sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=4096)
def _samples(path: Path, num_bytes: int, changed_ns: int) -> str:
    return file_digest(path)


def _folder_identity(folder: Path) -> list[dict[str, Any]]:
    return [_file_identity(path) for path in sorted(folder.rglob("*")) if path.is_file()]

"""The kinds of sources of raw examples: a generator, local files, a saved data set, and the Hugging Face hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from xlm.data.file_rows import ROWS_AT_ONCE, check_type, rows_of_file, rows_of_files, sound_rows
from xlm.data.hashing import code_version, file_digest
from xlm.data.selection import AS_USUAL, Reading, Selection
from xlm.errors import DataError, XLMError, as_line, did_you_mean, nearest_names
from xlm.utils.imports import get_function
from xlm.utils.instantiate import first_sentence
from xlm.utils.text_files import AmountRead, Row

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

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
        place = place_of(row)
        for part, share in self.shares:
            if place < share:
                return part
            place -= share
        return "train"


def place_of(row: Any) -> float:
    """A number in [0, 1) from the content of a row, which decides the part that the row belongs to."""
    text = json.dumps(row, sort_keys=True, default=str, ensure_ascii=True)
    return int.from_bytes(sha256(text.encode()).digest()[:8]) / 2**64


@dataclass(frozen=True)
class JoinedSource:
    """Several sources in turns, one row of each, until all are read."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return "-".join(source.name for source in self.sources)

    def identity(self) -> dict[str, Any]:
        return {"in_turns": [source.identity() for source in self.sources]}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return (row for _, _, row in self._in_turns(tokenizer))

    def where(self, number: int) -> str:
        found = next(islice(self._in_turns(None), number, None), None)
        return self.name if found is None else self.sources[found[0]].where(found[1])

    def _in_turns(self, tokenizer: Any) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(source, number of the row in it, row)."""
        waiting = [(index, enumerate(source.rows(tokenizer))) for index, source in enumerate(self.sources)]
        while waiting:
            remaining = []
            for index, rows in waiting:
                if (found := next(rows, None)) is not None:
                    yield index, *found
                    remaining.append((index, rows))
            waiting = remaining


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
            place = existing(Path(path).expanduser())
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
    reading: Reading = AS_USUAL

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
    reading: Reading = AS_USUAL

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
        return (row.value for row in rows_of_files(self.paths, self.reading))

    def where(self, number: int) -> str:
        return next(islice((row.where for row in rows_of_files(self.paths, self.reading)), number, None), self.path)

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
        with damage_of_folder_as_errors(self.folder):
            yield from _dataset_rows(self.dataset())

    def dataset(self) -> Dataset:
        """The split, memory-mapped; DataError if the folder is damaged, or has no such split."""
        from datasets import DatasetDict, load_from_disk

        with damage_of_folder_as_errors(self.folder):
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

    reading: Reading = AS_USUAL

    def identity(self) -> dict[str, Any]:
        return {"files": _folder_identity(self.folder), "split": self.split, **self.reading.of_files()}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return (row.value for row in self._rows())

    def where(self, number: int) -> str:
        return next(islice((row.where for row in self._rows()), number, None), str(self.folder))

    def files(self) -> list[Path] | None:
        """The files of a whole split, which need not be named if it is the only one; None for a slice of splits."""
        splits = self._splits()
        return splits["train"] if self.split is None and list(splits) == ["train"] else splits.get(self.split or "")

    def _rows(self) -> Iterator[Row]:
        files = self.files()
        return self._slices(self._splits()) if files is None else rows_of_files(files, self.reading)

    def _slices(self, splits: Mapping[str, list[Path]]) -> Iterator[Row]:
        """The meaning of a split like `train[:10]` or `train+test`; it may need the number of rows."""
        from datasets import ReadInstruction

        asked, before = self.split or "", AmountRead.num_bytes
        found = {name: files for name, files in splits.items() if name in asked}
        lengths = {name: sum(1 for _ in rows_of_files(files, self.reading)) for name, files in found.items()}
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
            islice(rows_of_files(splits[each.splitname], self.reading), each.from_, each.to) for each in slices
        )

    def num_bytes(self) -> int | None:
        """None for a part of a split."""
        files = self.files()
        return None if files is None else sum(path.stat().st_size for path in files)

    def splits(self) -> dict[str, list[Path]]:
        """The files of each split, as `datasets` finds them by their names."""
        return self._splits()

    def _splits(self) -> dict[str, list[Path]]:
        from datasets import load_dataset_builder

        try:
            found = load_dataset_builder(str(self.folder)).config.data_files or {}
        except (OSError, ValueError) as error:  # no data files, or no way to assign them to splits
            raise DataError(f"The folder {self.folder} has no readable data files: {error}") from error
        splits = {str(split): [Path(path) for path in paths] for split, paths in found.items()}
        for path in chain.from_iterable(splits.values()):
            check_type(path)
        return splits


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


def _pick_split(splits: Mapping[str, Dataset], split: str | None, where: str) -> Dataset:
    if split is None or split not in splits:
        raise DataError(f"{where} has no split '{split}'; it has: {', '.join(splits)}.")
    return splits[split]


def _dataset_rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    AmountRead.of_rows, AmountRead.num_rows = len(dataset), 0
    for table in dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        yield from sound_rows(table)
        AmountRead.num_rows += table.num_rows


@contextmanager
def damage_of_folder_as_errors(folder: Path) -> Iterator[None]:
    """DataError for a folder that `datasets` cannot read; it uses files without checks and raises anything."""
    try:
        yield
    except XLMError:
        raise
    except Exception as error:
        reason = first_sentence(error)
        raise DataError(as_line(f"The saved data set in {folder} cannot be read: {reason}")) from error


def existing(path: Path) -> Path:
    """The path; DataError if there is nothing."""
    if not path.exists():
        raise no_such_file(path)
    return path


def no_such_file(path: Path) -> DataError:
    """The error for a missing file, with the nearest name in its folder."""
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(nearest_names(path.name, siblings))
    return DataError(f"No such file or folder of data: {path}. {hint}".rstrip())


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

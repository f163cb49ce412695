"""Prepared data on disk: built once by one of several processes, complete or absent, and checked on every read."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from xlm.data.hashing import file_digest, hash_of
from xlm.data.mapping import ProcessKilledError
from xlm.data.rows import ArrowRows, Chunk, Shard, write_shards
from xlm.errors import CacheCorruptError, DataError
from xlm.utils.files import NO_SPACE, output_folder, writing

logger = logging.getLogger(__name__)

# Raised whenever the layout on disk, or the way sources are read and checked, changes; part of every key.
FORMAT_VERSION = 3
_MANIFEST = "manifest.json"
_FINISHED = "finished.jsonl"
#: The end of the name of a folder with unfinished data, which begins with a dot.
PARTIAL = ".partial"

# Called with the number of the source's rows that need not be read; yields the examples of all later ones.
Build = Callable[[int], Iterable[Chunk]]


@dataclass(frozen=True)
class CacheEntry:
    """Prepared data: its rows, its folder, whether this call built it, and how long the call took.

    `content` is a hash of the values of the rows; it does not depend on the version of Arrow that wrote them.
    `removed` counts the rows of the source that were left out, by reason.
    """

    rows: ArrowRows
    path: Path
    built: bool
    seconds: float
    content: str
    removed: dict[str, int]


class Stored(NamedTuple):
    """A folder of the cache, its size, and when it was written, in seconds since 1970."""

    path: Path
    num_bytes: int
    written: float


class DataCache:
    """A folder of prepared data sets, each in a subfolder named after a hash of everything that determines it.

    `opened` has the data sets that are open already, by folder, and gets those that are opened here. Without it, each
    is read and checked again.
    """

    def __init__(self, root: Path | str, opened: dict[Path, CacheEntry] | None = None) -> None:
        self.root = Path(root)
        self.opened = opened

    def path(self, name: str, key: Mapping[str, Any]) -> Path:
        """The folder for the data of `key`; `name` makes it readable."""
        readable = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60].strip("-.") or "data"
        return self.root / f"{readable}-{self._digest(key)[:20]}"

    @staticmethod
    def _digest(key: Mapping[str, Any]) -> str:
        return hash_of({"format": FORMAT_VERSION, **key})

    def stored(self) -> list[Stored]:
        """All data sets in the folder, finished or not, in order of their names."""
        if not self.root.is_dir():
            return []
        folders = [path for path in sorted(self.root.iterdir()) if path.is_dir()]
        return [
            Stored(path, sum(file.stat().st_size for file in path.iterdir()), path.stat().st_mtime)
            for path in folders
            if (path / _MANIFEST).exists() or path.name.endswith(PARTIAL)
        ]

    def get_or_build(
        self,
        name: str,
        key: Mapping[str, Any],
        build: Build,
        *,
        removed: Callable[[], Mapping[str, int]] = dict,
        rewritten: set[Path] | None = None,
    ) -> CacheEntry:
        """The rows of `key`, from disk or from `build`; damaged data are rebuilt, with a warning.

        Safe against crashes (data under their final name are complete) and against other processes that prepare the
        same data. Files that a killed process finished are used.

        Args:
            removed: what was left out of the source, by reason; called when all rows are written.
            rewritten: folders that were built again; one that is not among them is built even if it exists, and added.
        """
        start = time.perf_counter()
        path = self.path(name, key)
        again = rewritten is not None and path not in rewritten
        if not again and self.opened is not None and path in self.opened:
            return replace(self.opened[path], built=False, seconds=0.0)
        rows = None if again else self._read(path)
        built = False
        if rows is None:
            output_folder(self.root, "paths.cache_dir").mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{path.name}.lock"):
                rows = None if again else self._read(path)  # another process may have built it meanwhile
                if rows is None:
                    self._build(path, key, build, removed)
                    rows = read_checked(path)
                    built = True
        if rewritten is not None:
            rewritten.add(path)
        manifest = json.loads((path / _MANIFEST).read_text())
        entry = CacheEntry(
            rows, path, built, time.perf_counter() - start, str(manifest["content"]), dict(manifest["removed"])
        )
        if self.opened is not None:
            self.opened[path] = entry
        return entry

    def _read(self, path: Path) -> ArrowRows | None:
        if not path.exists():
            return None
        try:
            return read_checked(path)
        except CacheCorruptError as error:
            logger.warning("%s. It will be rebuilt.", error)
            return None

    def _build(
        self, path: Path, key: Mapping[str, Any], build: Build, removed: Callable[[], Mapping[str, int]]
    ) -> None:
        """Fill a folder beside `path` and rename it; the caller has the lock."""
        folder = self.root / f".{path.name}{PARTIAL}"
        folder.mkdir(exist_ok=True)
        shards = _finished(folder)
        _remove_others(folder, {shard.path.name for shard in shards} | {_FINISHED})
        try:
            # Many small lists are created and freed here; the collector need not visit every imported object each time.
            gc.freeze()
            try:
                for shard in write_shards(folder, build(shards[-1].num_read if shards else 0), tuple(shards)):
                    _record(folder, shard)
                    shards.append(shard)
            finally:
                gc.unfreeze()
            _write_manifest(folder, [shard.path for shard in shards], key, removed())
        except BaseException as error:
            # Data with an error in them get another key once they are mended.
            is_of_the_data = isinstance(error, DataError) and not isinstance(error, ProcessKilledError)
            if is_of_the_data or not shards:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in NO_SPACE:  # others may come from the source
                with writing(path, "The same command continues after the files that are complete."):
                    raise
            raise
        if path.exists():
            path.rename(folder / "replaced")
        os.rename(folder, path)
        (path / _FINISHED).unlink(missing_ok=True)
        shutil.rmtree(path / "replaced", ignore_errors=True)


def _finished(folder: Path) -> list[Shard]:
    """The undamaged files that an earlier process finished, in order."""
    shards: list[Shard] = []
    try:
        lines = (folder / _FINISHED).read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        lines = []
    sound = ""
    for line in lines:
        try:
            one = json.loads(line)
            path = folder / one["name"]
            is_sound = path.stat().st_size == one["bytes"] and file_digest(path) == one["digest"]
            shard = Shard(path, int(one["num_rows"]), int(one["num_read"]))
        except (
            OSError,
            ValueError,
            OverflowError,
            KeyError,
            TypeError,
            RecursionError,
        ):  # the process died while it wrote the line
            is_sound = False
        if not is_sound:
            break
        sound += line
        shards.append(shard)
    _remove(folder / _FINISHED)  # whatever is there
    (folder / _FINISHED).write_text(sound)
    return shards


def _record(folder: Path, shard: Shard) -> None:
    """Note that a file is complete, once it is on the disk."""
    _flush(shard.path)
    described = {**_described(shard.path), "num_rows": shard.num_rows, "num_read": shard.num_read}
    with (folder / _FINISHED).open("a") as file:
        file.write(json.dumps(described) + "\n")
    _flush(folder / _FINISHED)


def _remove_others(folder: Path, kept: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in kept or path.is_dir():
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_checked(path: Path) -> ArrowRows:
    """The rows of the prepared data in `path`; `CacheCorruptError` when a file does not match the manifest."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        files = [path / file["name"] for file in manifest["files"]]
        expected = [(file["bytes"], file["digest"]) for file in manifest["files"]]
        num_rows, _, _ = manifest["num_rows"], manifest["content"], dict(manifest["removed"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheCorruptError(path, f"its manifest is missing or damaged ({type(error).__name__})") from error
    for file, (size, digest) in zip(files, expected, strict=True):
        if not file.is_file():
            raise CacheCorruptError(path, f"{file.name} is missing")
        if file.stat().st_size != size:
            raise CacheCorruptError(path, f"{file.name} has {file.stat().st_size} bytes, not {size}")
        if file_digest(file) != digest:
            raise CacheCorruptError(path, f"{file.name} does not match its checksum")
    rows = ArrowRows(files)
    if len(rows) != num_rows:
        raise CacheCorruptError(path, f"it has {len(rows)} rows, not {num_rows}")
    return rows


def _write_manifest(folder: Path, files: list[Path], key: Mapping[str, Any], removed: Mapping[str, int]) -> None:
    rows = ArrowRows(files)
    manifest = {
        "format": FORMAT_VERSION,
        "key": dict(key),
        "num_rows": len(rows),
        "content": rows.digest(),
        "removed": dict(removed),
        "files": [_described(file) for file in files],
    }
    path = folder / _MANIFEST
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    _flush(path)


def _described(file: Path) -> dict[str, Any]:
    return {"name": file.name, "bytes": file.stat().st_size, "digest": file_digest(file)}


def _flush(path: Path) -> None:
    """Flush to disk, so that a power failure after the rename cannot leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())

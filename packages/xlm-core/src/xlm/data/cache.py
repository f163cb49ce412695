"""Prepared data on disk: built once by one of several processes, complete or absent, and checked on every read."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from filelock import FileLock

from xlm.data.hashing import file_digest, hash_of
from xlm.data.rows import ArrowRows, write_rows
from xlm.errors import CacheCorruptError, DataError
from xlm.utils.files import output_folder

Function = Callable[[dict[str, Any]], dict[str, Any]]

_ROWS_AT_ONCE = 1000


class RowError(DataError):
    """An error in row `row`, counted from 0."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


_function: Function | None = None


def map_rows(function: Function, rows: Iterable[dict[str, Any]], num_workers: int | None) -> Iterator[dict[str, Any]]:
    """`map(function, rows)` in `num_workers` processes; in this process for 0 or 1.

    Raises:
        DataError: a process was killed.
        RowError: the function raised a DataError for a row. Any other exception gets a note with the row's number.
    """
    if num_workers is None or num_workers <= 1:
        yield from _each(function, rows, 0)
        return
    iterator = iter(rows)
    # Spawned, not forked: tokenizers and torch have started threads by now.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_set_function, initargs=(function,))
    pending: deque[Future[list[dict[str, Any]]]] = deque()
    first = 0
    try:
        while chunk := list(islice(iterator, _ROWS_AT_ONCE)):
            pending.append(pool.submit(_process, chunk, first))
            first += len(chunk)
            if len(pending) > 2 * num_workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            f"One of the {num_workers} processes that prepare data was killed, for instance for want of memory. "
            "Use fewer: num_dataset_workers=…"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _set_function(function: Function) -> None:
    global _function
    _function = function


def _process(rows: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    assert _function is not None
    return list(_each(_function, rows, first))


def _each(function: Function, rows: Iterable[dict[str, Any]], first: int) -> Iterator[dict[str, Any]]:
    """The results of `function`; an exception gets the number of its row, counted from `first`."""
    for number, row in enumerate(rows, first):
        try:
            result = function(row)
        except RowError:
            raise
        except DataError as error:
            raise RowError(str(error), number) from error
        except Exception as error:
            error.add_note(f"In row {number + 1} of the data.")
            raise
        yield result


logger = logging.getLogger(__name__)

# Raised whenever the layout on disk, or the way sources are read and checked, changes; part of every key.
FORMAT_VERSION = 2
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CacheEntry:
    """Prepared data: its rows, its folder, whether this call built it, and how long the call took.

    `content` is a hash of the values of the rows; it does not depend on the version of Arrow that wrote them.
    """

    rows: ArrowRows
    path: Path
    built: bool
    seconds: float
    content: str


class DataCache:
    """A folder of prepared data sets, each in a subfolder named after a hash of everything that determines it."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, name: str, key: Mapping[str, Any]) -> Path:
        """The folder for the data of `key`; `name` makes it readable."""
        readable = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60].strip("-.") or "data"
        return self.root / f"{readable}-{self._digest(key)[:20]}"

    @staticmethod
    def _digest(key: Mapping[str, Any]) -> str:
        return hash_of({"format": FORMAT_VERSION, **key})

    def get_or_build(
        self, name: str, key: Mapping[str, Any], build: Callable[[], Iterable[dict[str, Any]]]
    ) -> CacheEntry:
        """The rows of `key`, from disk or from `build()`; damaged data are rebuilt, with a warning.

        Safe against crashes (what is on disk is complete) and against other processes that prepare the same data.
        """
        start = time.perf_counter()
        path = self.path(name, key)
        rows = self._read(path, key)
        built = False
        if rows is None:
            output_folder(self.root, "paths.cache_dir").mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{path.name}.lock"):
                rows = self._read(path, key)  # another process may have built it meanwhile
                if rows is None:
                    self._build(path, key, build)
                    rows = read_checked(path)
                    built = True
        content = str(json.loads((path / _MANIFEST).read_text())["content"])
        return CacheEntry(rows, path, built, time.perf_counter() - start, content)

    def _read(self, path: Path, key: Mapping[str, Any]) -> ArrowRows | None:
        if not path.exists():
            return None
        try:
            return read_checked(path)
        except CacheCorruptError as error:
            logger.warning("%s. It will be rebuilt.", error)
            return None

    def _build(self, path: Path, key: Mapping[str, Any], build: Callable[[], Iterable[dict[str, Any]]]) -> None:
        for abandoned in self.root.glob(f".{path.name}.tmp-*"):  # left by a process that died; we hold its lock
            shutil.rmtree(abandoned)
        folder = Path(mkdtemp(prefix=f".{path.name}.tmp-", dir=self.root))
        try:
            # Many small lists are created and freed here; the collector need not visit every imported object each time.
            gc.freeze()
            try:
                files = write_rows(folder, build())
            finally:
                gc.unfreeze()
            _write_manifest(folder, files, key)
            if path.exists():
                path.rename(folder / "replaced")
            folder.chmod(0o755)  # mkdtemp makes it private
            os.rename(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(path / "replaced", ignore_errors=True)


def read_checked(path: Path) -> ArrowRows:
    """The rows of the prepared data in `path`; `CacheCorruptError` when a file does not match the manifest."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        files = [path / file["name"] for file in manifest["files"]]
        expected = [(file["bytes"], file["digest"]) for file in manifest["files"]]
        num_rows, _ = manifest["num_rows"], manifest["content"]
    except (OSError, ValueError, KeyError, TypeError) as error:
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


def _write_manifest(folder: Path, files: list[Path], key: Mapping[str, Any]) -> None:
    rows = ArrowRows(files)
    manifest = {
        "format": FORMAT_VERSION,
        "key": dict(key),
        "num_rows": len(rows),
        "content": rows.digest(),
        "files": [{"name": file.name, "bytes": file.stat().st_size, "digest": file_digest(file)} for file in files],
    }
    for file in files:
        _flush(file)
    path = folder / _MANIFEST
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    _flush(path)


def _flush(path: Path) -> None:
    """Flush to disk, so that a power failure after the rename cannot leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())

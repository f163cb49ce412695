"""Prepared data survive crashes, damage and concurrent processes, and are rebuilt exactly when something changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from xlm.data.cache import DataCache, read_checked
from xlm.data.mapping import ProcessKilledError
from xlm.data.rows import Chunk
from xlm.errors import CacheCorruptError, ConfigError, DataError, StorageError

KEY = {"source": "x", "seed": 1}


def build(start: int = 0) -> Iterator[Chunk]:
    return (Chunk([{"ids": [i, i + 1]}], i + 1) for i in range(start, 500))


def visible(root: Path) -> list[str]:
    """Everything in a cache but its locks."""
    return sorted(p.name for p in root.iterdir() if not p.name.endswith(".lock"))


def test_builds_once_and_reads_after(tmp_path: Path) -> None:
    cache = DataCache(tmp_path / "deep" / "cache")
    first = cache.get_or_build("star/easy train", KEY, build)
    assert first.built
    assert first.path.name.startswith("star-easy-train-")
    second = cache.get_or_build("star/easy train", KEY, lambda start: pytest.fail("built twice"))
    assert not second.built
    assert second.rows.fetch([499, 0]) == [{"ids": [499, 500]}, {"ids": [0, 1]}]
    assert json.loads((first.path / "manifest.json").read_text())["key"] == KEY


@pytest.mark.parametrize("change", [{"seed": 2}, {"source": "y"}, {"more": None}])
def test_anything_in_the_key_names_another_cache(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = DataCache(tmp_path)
    assert cache.path("a", KEY) != cache.path("a", {**KEY, **change})
    assert cache.path("a", KEY) == cache.path("a", dict(reversed(KEY.items())))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "cache", Path("/proc/none")):
        with pytest.raises(ConfigError, match=r"^paths\.cache_dir: "):
            DataCache(root).get_or_build("a", {}, lambda start: iter([]))


def test_an_error_while_building_leaves_nothing(tmp_path: Path) -> None:
    def broken(start: int) -> Iterator[Chunk]:
        yield Chunk([{"ids": [1]}], 1)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        DataCache(tmp_path).get_or_build("a", KEY, broken)
    assert visible(tmp_path) == []


def test_a_full_disk_names_the_cache_and_leaves_nothing(tmp_path: Path) -> None:
    def full(start: int) -> Iterator[Chunk]:
        yield from islice(build(start), 10)
        raise OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    cache = DataCache(tmp_path)
    with pytest.raises(StorageError, match=r"x-\w+ cannot be written: No space left on device\. The same command"):
        cache.get_or_build("x", KEY, full)
    assert visible(tmp_path) == []


def damage_truncate(path: Path) -> None:
    file = path / "rows-00000.arrow"
    file.write_bytes(file.read_bytes()[:-100])


def damage_bit(path: Path) -> None:
    file = path / "rows-00000.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def damage_missing_rows(path: Path) -> None:
    (path / "rows-00000.arrow").unlink()


def damage_missing_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def damage_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"files": [')


def damage_row_count(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "num_rows": 7}))


DAMAGES = {
    damage_truncate: "bytes, not",
    damage_bit: "does not match its checksum",
    damage_missing_rows: "is missing",
    damage_missing_manifest: "its manifest is missing or damaged",
    damage_manifest: "its manifest is missing or damaged",
    damage_row_count: "500 rows, not 7",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_damage_is_named_and_built_again(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    cache = DataCache(tmp_path)
    path = cache.get_or_build("a", KEY, build).path
    damage(path)
    with pytest.raises(CacheCorruptError, match=DAMAGES[damage]):
        read_checked(path)
    again = cache.get_or_build("a", KEY, build)
    assert again.built
    assert str(path) in caplog.text
    assert DAMAGES[damage] in caplog.text
    assert again.rows.fetch([3]) == [{"ids": [3, 4]}]
    assert visible(tmp_path) == [path.name]


def test_large_files_are_checked_in_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.data.hashing._WHOLE_DIGEST_BYTES", 1000)
    monkeypatch.setattr("xlm.data.hashing._SAMPLE_BYTES", 64)
    cache = DataCache(tmp_path)
    path = cache.get_or_build("a", KEY, build).path
    assert len(read_checked(path)) == 500
    file = path / "rows-00000.arrow"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CacheCorruptError, match="checksum"):
        read_checked(path)


SLOW_BUILD = """
import sys, time
from xlm.data import rows
from xlm.data.cache import DataCache

rows._ROWS_PER_FILE = 100

def build(start):
    for i in range(start, 500):
        if i == 350:
            print("most", flush=True)
            time.sleep(float(sys.argv[2]))
        yield rows.Chunk([{"ids": [i, i + 1]}], i + 1)

entry = DataCache(sys.argv[1]).get_or_build("a", {"source": "x", "seed": 1}, build)
print("built" if entry.built else "found", len(entry.rows), flush=True)
"""


def start(root: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_BUILD, str(root), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def undamaged(folder: Path) -> None:
    pass


def flip_a_bit(folder: Path) -> None:
    file = folder / "rows-00001.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def tear_the_last_line(folder: Path) -> None:
    file = folder / "finished.jsonl"
    file.write_text(file.read_text()[:-20])


def lose_the_list(folder: Path) -> None:
    (folder / "finished.jsonl").unlink()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache after SIGKILL in the fourth of five files."""
    root = tmp_path_factory.mktemp("killed")
    with start(root, 60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "most\n"
        os.kill(process.pid, signal.SIGKILL)
    return root


@pytest.mark.parametrize(
    ("damage", "first"), [(undamaged, 300), (flip_a_bit, 100), (tear_the_last_line, 200), (lose_the_list, 0)]
)
def test_what_a_killed_process_finished_is_used(
    tmp_path: Path, killed: Path, damage: Any, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.data.rows._ROWS_PER_FILE", 100)
    root = tmp_path / "again"
    shutil.copytree(killed, root)
    cache = DataCache(root)
    assert not cache.path("a", KEY).exists()
    partial = root / f".{cache.path('a', KEY).name}.partial"
    damage(partial)
    starts = []

    def noted(start: int) -> Iterator[Chunk]:
        starts.append(start)
        return build(start)

    entry = cache.get_or_build("a", KEY, noted)
    assert entry.built
    assert starts == [first]
    assert visible(root) == [entry.path.name]
    undisturbed = DataCache(tmp_path / "whole").get_or_build("a", KEY, build).path
    files = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    assert len(files) == 6
    assert {path.name: path.read_bytes() for path in entry.path.iterdir()} == files


def test_finished_files_stay_after_an_interruption_but_not_after_an_error_in_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.data.rows._ROWS_PER_FILE", 100)
    cache = DataCache(tmp_path)
    for error, num_kept in ((KeyboardInterrupt, 1), (ProcessKilledError, 1), (DataError, 0)):

        def stopped(start: int, error: type[BaseException] = error) -> Iterator[Chunk]:
            yield from islice(build(start), 150)
            raise error("stopped")

        with pytest.raises(error):
            cache.get_or_build("a", KEY, stopped)
        assert len(visible(tmp_path)) == num_kept


def test_data_are_built_again_once_when_they_are_rewritten(tmp_path: Path) -> None:
    cache, rewritten = DataCache(tmp_path), set[Path]()
    built = [cache.get_or_build("a", KEY, build, rewritten=rewritten).built for _ in range(3)]
    assert built == [True, False, False]
    assert cache.get_or_build("a", KEY, build, rewritten=set(), removed=lambda: {"duplicates": 3}).built
    assert cache.get_or_build("a", KEY, build).removed == {"duplicates": 3}


def test_two_processes_prepare_at_once_and_one_builds(tmp_path: Path) -> None:
    processes = [start(tmp_path, 1.0) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split("\n")[-2] for process in processes]
    assert sorted(outputs) == ["built 500", "found 500"]
    assert len(visible(tmp_path)) == 1


def test_reading_needs_no_right_to_write(tmp_path: Path) -> None:
    entry = DataCache(tmp_path).get_or_build("a", KEY, build)
    before = time.time_ns()
    os.chmod(tmp_path, 0o555)
    try:
        again = DataCache(tmp_path).get_or_build("a", KEY, build)
    finally:
        os.chmod(tmp_path, 0o755)
    assert not again.built
    assert entry.path.stat().st_mtime_ns < before

"""Files that are replaced atomically."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xlm.errors import StorageError
from xlm.utils import files
from xlm.utils.files import keep_earlier, remove_leftovers, replace_text, temporary_beside


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    assert replace_text(path, "one") == path
    replace_text(path, "zwei · ▁")
    assert path.read_text(encoding="utf-8") == "zwei · ▁"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("has_links", [True, False])
def test_an_earlier_file_gets_the_next_free_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    if not has_links:
        monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "rows.jsonl"
    assert keep_earlier(path, "one") is None
    for text, kept in (("one", None), ("one", None), ("zwei · ▁", "rows-1.jsonl"), ("three", "rows-2.jsonl")):
        earlier = keep_earlier(path, text)
        assert (earlier and earlier.name) == kept
        replace_text(path, text)
    texts = {other.name: other.read_text(encoding="utf-8") for other in tmp_path.iterdir()}
    assert texts == {"rows.jsonl": "three", "rows-1.jsonl": "one", "rows-2.jsonl": "zwei · ▁"}


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = replace_text(tmp_path / "a.json", "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\udcff")
    assert path.read_text() == "old"


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere/target")
    replace_text(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "target").read_text() == "one"


def test_an_error_of_the_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_text(tmp_path / "a.json", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.json cannot be written: No space left on device\."):
        replace_text(tmp_path / "a.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    code = (
        f"from xlm.utils.files import *; from pathlib import Path; print(temporary_beside(Path('{folder}/last.ckpt')))"
    )
    dead = Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    dead.write_bytes(b"half")
    sharded = dead.with_name(dead.name.replace("last", "step-7"))
    sharded.mkdir()
    (sharded / "shard").touch()
    mine = temporary_beside(folder / "last.ckpt")
    mine.touch()
    # A later process with the same number, and one on another machine.
    pid, started, here = mine.name.rsplit(".", 2)[-2].split("-")
    recycled = folder / f".b.ckpt.{pid}-{int(started) - 1}-{here}.tmp"
    busy, silent = (folder / f".{name}.ckpt.{pid}-{started}-00000000.tmp" for name in "cd")
    older = [folder / name for name in (".step-7.ckpt.5p0wf4zt", ".results.json.4242.tmp")] + [tmp_path / "metrics.tmp"]
    kept = [folder / name for name in ("last.ckpt", "step-7.ckpt", ".hidden", "notes.tmp")]
    for path in (recycled, busy, silent, *older, *kept):
        path.touch()
    for path in (silent, *older):
        os.utime(path, (1, 1))
    removed = remove_leftovers(tmp_path)
    assert sorted(removed) == sorted([dead, sharded, recycled, silent, *older])
    assert sorted(folder.iterdir()) == sorted([mine, busy, *kept])
    assert remove_leftovers(tmp_path / "none") == []
    assert files._tag(os.getpid()) in mine.name

"""Output paths are checked before the job starts: errors name them, and checking leaves no files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xlm.errors import ConfigError
from xlm.utils import files as outputs
from xlm.utils.files import output_file, output_folder


def tree(folder: Path) -> list[tuple[str, bytes | None]]:
    return [(str(p.relative_to(folder)), p.read_bytes() if p.is_file() else None) for p in sorted(folder.rglob("*"))]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds a file with text, a folder with a file, links to both, and one to nowhere; it is the current folder."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    for name, target in {"to_file": "file", "to_folder": "folder", "dangling": "none/below"}.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "as_file", "as_folder"),
    [
        ("new", "", ""),
        ("a/b/c d/é=,[", "", ""),
        ("file", "", "is not a folder"),
        ("folder", "is a folder", ""),
        ("to_file", "", "is not a folder"),
        ("to_folder", "is a folder", ""),
        ("dangling", "", "is not a folder"),
        ("fifo", "is not a regular file", "is not a folder"),
        ("/dev/null", "is not a regular file", "is not a folder"),
        ("file/below", "cannot be written: Not a directory", "cannot be written: Not a directory"),
        ("/proc/nothing/here", "cannot be written", "cannot be written"),
        ("n" * 300, "cannot be written: File name too long", "cannot be written: File name too long"),
        ("nul\0byte", "cannot be written", "cannot be written"),
        ("", "is empty", "is empty"),
        ("  ", "is empty", "is empty"),
    ],
)
@pytest.mark.parametrize("look", [output_file, output_folder])
def test_every_kind_of_place(
    place: Path, look: Callable[[str, str], Path], path: str, as_file: str, as_folder: str
) -> None:
    before = tree(place)
    expected = as_file if look is output_file else as_folder
    if expected:
        with pytest.raises(ConfigError, match=expected) as caught:
            look(path, "plan.output_path")
        assert caught.value.key == "plan.output_path"
        assert str(caught.value).startswith("plan.output_path")
        assert "\n" not in str(caught.value)
    else:
        assert look(path, "plan.output_path") == Path(path)
    assert tree(place) == before


def test_a_full_disk_is_met_at_the_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.os, "fsync", full)  # type: ignore[attr-defined]
    before = tree(place)
    for look in (output_file, output_folder):
        with pytest.raises(ConfigError, match=r"new/x cannot be written: No space left on device\."):
            look("new/x", "output")
    assert tree(place) == before


def test_what_a_job_reads_it_does_not_replace(place: Path) -> None:
    with pytest.raises(ConfigError, match="is an input of the job"):
        output_file("./to_file", "output", read=["other", "file"])

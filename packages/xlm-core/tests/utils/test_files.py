"""Files that are replaced atomically."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.utils.files import replace_text


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    assert replace_text(path, "one") == path
    replace_text(path, "zwei · ▁")
    assert path.read_text(encoding="utf-8") == "zwei · ▁"
    assert list(path.parent.iterdir()) == [path]


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

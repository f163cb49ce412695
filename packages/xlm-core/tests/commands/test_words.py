"""Command lines without a configuration: lists of names that contain commas."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.commands.words import as_list


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("[a,b]", ["a", "b"]),
        ("a, 'b'", ["a", "b"]),
        ("", []),
        ("[]", []),
        ("runs/a,seed=1", ["runs/a,seed=1"]),
        ("[runs/a,seed=1,b,runs/a,seed=1]", ["runs/a,seed=1", "b", "runs/a,seed=1"]),
        ("['x,y',\"z\"]", ["x,y", "z"]),
        ("[b, runs/é, x=1 [a], c]", ["b", "runs/é, x=1 [a]", "c"]),
        ("runs/é, x=1 [a]", ["runs/é, x=1 [a]"]),
        ("new [b]", ["new [b]"]),
        ("[it's,b]", ["it's", "b"]),
        ("runs/a,seed=2", ["runs/a", "seed=2"]),
    ],
)
def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, names: list[str]) -> None:
    (tmp_path / "runs" / "a,seed=1").mkdir(parents=True)
    (tmp_path / "runs" / "é, x=1 [a]").mkdir()
    monkeypatch.chdir(tmp_path)
    assert as_list(value) == names


def test_the_home_folder() -> None:
    assert as_list("[~/a,b]") == [str(Path.home() / "a"), "b"]

"""Every package has a floor of coverage, the badge shows the lowest, and a package below its floor is named."""

from pathlib import Path

import pytest
from coverage import Coverage

import coverage_floors
from coverage_floors import BADGE, badge, compared, main, measured, read_floors
from workspace import ROOT, read_packages


def test_every_package_has_a_floor_and_the_badge_shows_the_lowest() -> None:
    floors = read_floors()
    assert floors.keys() == read_packages(ROOT).keys()
    assert all(0 < floor <= 100 for floor in floors.values())
    assert BADGE.read_text(encoding="utf-8") == badge(floors), "python tools/coverage_floors.py --badge"


def test_packages_below_their_floor_are_named() -> None:
    lines, low = compared({"xlm-core": 89.9, "xlm-ilm": 95.0}, {"xlm-core": 90.0, "xlm-ilm": 95.0})
    assert low == ["xlm-core"]
    assert "too low" in lines[0]
    assert "too low" not in lines[1]


def test_lines_and_branches_of_each_package_are_measured(tmp_path: Path) -> None:
    source = "def f(x):\n    if x:\n        return 1\n    return 2\n\n\nf(1)\n"
    for name in ("a", "b"):
        folder = tmp_path / "packages" / name / "src"
        folder.mkdir(parents=True)
        (folder / f"module_{name}.py").write_text(source if name == "a" else source + "f(0)\n")
    data = Coverage(data_file=str(tmp_path / "data"), branch=True, include=[f"{tmp_path}/*"], config_file=False)
    with data.collect():
        for name in ("a", "b"):
            path = tmp_path / "packages" / name / "src" / f"module_{name}.py"
            exec(compile(path.read_text(), str(path), "exec"), {})
    found = measured(data, ["a", "b"], tmp_path)
    assert found["a"] == pytest.approx(100 * (4 + 1) / (5 + 2))  # a line and a branch are missing
    assert found["b"] == 100


def test_nothing_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COVERAGE_FILE", str(tmp_path / "none"))
    assert main([]) == 1
    assert "hatch run cov" in capsys.readouterr().err


def test_a_package_without_a_floor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(coverage_floors, "read_floors", lambda: {"xlm-core": 1.0})
    assert main([]) == 1
    assert "xlm-ilm" in capsys.readouterr().err

"""Compares the branch coverage of each package with its floor in pyproject.toml, and draws the floors as a badge.

python tools/coverage_floors.py              after `hatch run cov`: exit code 1 if a package is below its floor
python tools/coverage_floors.py --badge      writes docs/images/coverage.svg from the floors; a test compares it

The badge says what every run of the night enforces, so it needs no service and no commit by a machine.
"""

from __future__ import annotations

import argparse
import io
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workspace import ROOT, read_packages

if TYPE_CHECKING:
    from coverage import Coverage

BADGE = ROOT / "docs" / "images" / "coverage.svg"
_GREEN, _YELLOW, _RED = "#3f8f3f", "#a08000", "#b04030"
_CHARACTER = 6.6  # width of a character of 11 px, and some more


def read_floors(root: Path = ROOT) -> dict[str, float]:
    """Package → the least share of lines and branches that its tests run, in percent."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return {name: float(floor) for name, floor in settings["tool"]["coverage-floors"].items()}


def measured(data: Coverage, packages: Sequence[str], root: Path = ROOT) -> dict[str, float]:
    """Package → lines and branches that were run, in percent, from the data of a run of the tests."""
    return {
        name: data.report(include=[str(root / "packages" / name / "src" / "*")], file=io.StringIO())
        for name in packages
    }


def compared(found: Mapping[str, float], floors: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """A line for each package, and the names of those below their floors."""
    low = [name for name, floor in floors.items() if found[name] < floor]
    width = max(map(len, floors))
    lines = [
        f"{name:{width}}  {found[name]:6.2f} %  floor {floor:g} %{'  too low' if name in low else ''}"
        for name, floor in floors.items()
    ]
    return lines, low


def badge(floors: Mapping[str, float]) -> str:
    """An SVG with the lowest floor of all packages."""
    least = min(floors.values())
    label, value = "branch coverage", f"≥ {least:g} %"
    color = _GREEN if least >= 85 else _YELLOW if least >= 70 else _RED
    left, right = (round(len(text) * _CHARACTER) + 10 for text in (label, value))
    font = 'font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" fill="#fff" text-anchor="middle"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{label}: {value}">\n'
        f"<title>{label}: {value}</title>\n"
        f'<rect width="{left}" height="20" rx="3" fill="#555"/>\n'
        f'<rect x="{left}" width="{right}" height="20" rx="3" fill="{color}"/>\n'
        f'<text x="{left / 2:g}" y="14" {font}>{label}</text>\n'
        f'<text x="{left + right / 2:g}" y="14" {font}>{value}</text>\n'
        "</svg>\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, or draw; returns the exit code."""
    parser = argparse.ArgumentParser(description="Floors of branch coverage, one for each package.")
    parser.add_argument("--badge", action="store_true", help="write docs/images/coverage.svg and compare nothing")
    arguments = parser.parse_args(argv)
    floors = read_floors()
    if lacking := sorted(read_packages(ROOT).keys() - floors.keys()):
        print(f"[tool.coverage-floors] of pyproject.toml has no floor for: {', '.join(lacking)}", file=sys.stderr)
        return 1
    if arguments.badge:
        BADGE.write_text(badge(floors), encoding="utf-8")
        print(f"Written to {BADGE.relative_to(ROOT)}.")
        return 0
    from coverage import Coverage
    from coverage.exceptions import NoDataError

    data = Coverage(config_file=str(ROOT / "pyproject.toml"))
    data.load()
    try:
        lines, low = compared(measured(data, list(floors)), floors)
    except NoDataError:
        print("There are no measurements. Run the tests first: hatch run cov", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())

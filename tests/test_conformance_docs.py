"""The guide's table of properties is the one that the kit checks."""

from __future__ import annotations

from workspace import ROOT
from xlm.testing import PROPERTIES


def test_the_table_of_the_guide_is_the_kits_own() -> None:
    page = (ROOT / "docs/guide/conformance.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{prop.name}` | {prop.proves} | {prop.remedy} |" for prop in PROPERTIES]


def test_the_changelog_counts_them() -> None:
    changes = (ROOT / "packages/xlm-core/CHANGELOG.md").read_text(encoding="utf-8")
    assert f"prove in {len(PROPERTIES)} properties" in changes

"""Tests of preparing a release: versions, changelogs, what is refused, and what is printed."""

import re
import subprocess
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import release
import workspace
from release import PARTS, bump, dated_changelog, next_version, widened
from workspace import WorkspaceError

DAY = date(2026, 1, 31)
PYPROJECT = """\
[project]
name = "xlm-{name}"
dependencies = [{dependencies}]

[tool.hatch.version]
path = "src/{name}/__about__.py"

[tool.hatch.build.targets.wheel]
packages = ["src/{name}"]
"""
CHANGELOG = "# Changes\n\n## [Unreleased]\n\n### Added\n\n- New.\n\n## [1.2.0] - 2025-06-01\n\n- Old.\n"

numbers = st.integers(0, 30)
versions = st.builds(
    lambda n, tail: Version(".".join(map(str, n)) + tail),
    st.lists(numbers, min_size=1, max_size=3),
    st.sampled_from(["", "", "rc1", "a2", "b1"]),
)
operators = st.sampled_from([">=", "<", "~=", "=="])
ranges = st.lists(st.builds(lambda o, a, b: f"{o}{a}.{b}", operators, numbers, numbers), min_size=1, max_size=3)


def git(root: Path, *args: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *args], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed repository of core and one model, both at 1.2.0."""
    for name, dependencies in (("core", ""), ("aa", '"xlm-core>=1.0,<2"')):
        package = tmp_path / "packages" / f"xlm-{name}"
        (package / "src" / name).mkdir(parents=True)
        (package / "pyproject.toml").write_text(PYPROJECT.format(name=name, dependencies=dependencies))
        (package / "src" / name / "__about__.py").write_text('"""Version."""\n\n__version__ = "1.2.0"\n')
        (package / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    return tmp_path


@given(versions, st.sampled_from(PARTS))
def test_a_bump_goes_up_to_a_plain_version(current: Version, part: str) -> None:
    new = bump(current, part)
    assert new > current
    assert re.fullmatch(r"\d+\.\d+\.\d+", str(new))
    kept = PARTS.index(part)
    if not current.is_prerelease:
        old = [*current.release, 0, 0][:3]
        assert list(new.release[:kept]) == old[:kept]
        assert new.release[kept] == old[kept] + 1
    assert not any(new.release[kept + 1 :])


@given(versions)
def test_the_larger_the_part_the_larger_the_step(current: Version) -> None:
    patch, minor, major = (bump(current, part) for part in ("patch", "minor", "major"))
    assert patch <= minor <= major


@given(versions)
def test_a_candidate_leads_to_its_own_version(current: Version) -> None:
    candidate = Version(f"{current.base_version}rc1")
    assert bump(candidate, "patch") == Version(current.base_version)


@given(versions, st.text(max_size=12) | versions.map(str) | st.sampled_from(["v1.3", "1.2.3+cpu", "1!2", "latest"]))
def test_what_is_taken_as_a_version_is_one_and_no_step_back(current: Version, wanted: str) -> None:
    try:
        new = next_version(current, wanted)
    except WorkspaceError:
        return
    assert str(new) == wanted
    assert new >= current


@given(ranges, versions)
def test_the_range_that_is_proposed_holds_the_version(parts: list[str], version: Version) -> None:
    assert SpecifierSet(widened(SpecifierSet(",".join(parts)), version)).contains(version, prereleases=True)


def test_a_changelog_gets_version_and_date_and_keeps_the_rest() -> None:
    new = dated_changelog(CHANGELOG, Version("1.3.0"), DAY)
    assert new == CHANGELOG.replace("## [Unreleased]", "## [1.3.0] - 2026-01-31")


def test_a_first_release_has_its_version_without_a_date() -> None:
    text = "# Changes\n\n## [1.0.0]\n\n- New.\n"
    assert "## [1.0.0] - 2026-01-31\n" in dated_changelog(text, Version("1.0.0"), DAY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Changes\n", "it has no heading `## [Unreleased]`"),
        ("# Changes\n\n## [1.2.0] - 2025-06-01\n\n- Old.\n", "topmost section is `## [1.2.0] - 2025-06-01`"),
        ("# Changes\n\n## [1.2.0]\n\n- Old.\n", "topmost section is `## [1.2.0]`"),
        ("# C\n\n## [Unreleased]\n\n### Added\n\n## [1.2.0]\n\n- Old.\n", "`## [Unreleased]` is empty"),
        ("# C\n\n## [Unreleased]\n", "is empty"),
        ("# C\n\n## [Unreleased]\n\n- New.\n\n## [1.3.0] - 2025-06-01\n", "has a section of that version already"),
    ],
)
def test_a_changelog_without_anything_to_release(text: str, message: str) -> None:
    with pytest.raises(WorkspaceError, match=re.escape(message)):
        dated_changelog(text, Version("1.3.0"), DAY)


def test_a_release_of_a_model(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["xlm-aa", "minor"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "xlm-aa: 1.2.0 → 1.3.0, tag xlm-aa-v1.3.0",
        "  wrote packages/xlm-aa/src/aa/__about__.py",
        "  wrote packages/xlm-aa/CHANGELOG.md",
        "Next:",
        "  hatch run model.aa:test",
        '  git commit -m "Release xlm-aa 1.3.0" -- packages/xlm-aa',
        '  git tag -a xlm-aa-v1.3.0 -m "xlm-aa 1.3.0"',
        "  git push origin HEAD xlm-aa-v1.3.0",
    ]
    package = workspace.read_tag("xlm-aa-v1.3.0", workspace.read_packages(root))
    assert workspace.changelog_section(package, package.version) == "### Added\n\n- New."
    changed = git(root, "diff", "--name-only").split()
    assert changed == ["packages/xlm-aa/CHANGELOG.md", "packages/xlm-aa/src/aa/__about__.py"]


def test_a_first_release_has_its_version_already(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "packages/xlm-aa/CHANGELOG.md"
    file.write_text("# Changes\n\n## [1.2.0]\n\n- New.\n")
    git(root, "commit", "-qam", "two")
    assert release.main(["xlm-aa", "1.2.0"]) == 0
    assert "about__" not in capsys.readouterr().out
    assert re.search(r"^## \[1.2.0\] - \d{4}-\d\d-\d\d$", file.read_text(), re.MULTILINE)


def test_a_dry_run_prints_the_same_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["xlm-aa", "2.0.0rc1", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert git(root, "status", "--porcelain") == ""
    assert release.main(["xlm-aa", "2.0.0rc1"]) == 0
    assert capsys.readouterr().out == printed.replace("would write", "wrote")
    assert git(root, "status", "--porcelain") != ""


def test_a_version_once_released_is_refused_the_next_time(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["xlm-aa", "patch"]) == 0
    git(root, "commit", "-qam", "release")
    git(root, "tag", "xlm-aa-v1.2.1")
    assert release.main(["xlm-aa", "1.2.1"]) == 1
    assert "the tag xlm-aa-v1.2.1 exists" in capsys.readouterr().err
    assert release.main(["xlm-aa", "patch"]) == 1
    assert "nothing to release as 1.2.2: its topmost section is `## [1.2.1] - " in capsys.readouterr().err


def test_only_changes_of_this_package_stand_in_the_way(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "packages/xlm-aa/new.py").touch()
    assert release.main(["xlm-core", "minor", "--dry-run"]) == 0
    assert release.main(["xlm-aa", "minor"]) == 1
    assert capsys.readouterr().err == (
        "Not released: xlm-aa has changes that are not committed:\n?? packages/xlm-aa/new.py\n"
    )


def test_a_core_outside_a_declared_range(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["xlm-core", "major"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Not released: xlm-core 2.0.0 is outside the ranges that other packages declare:",
        "  xlm-aa wants xlm-core>=1.0,<2: write xlm-core>=1.0,<3 in packages/xlm-aa/pyproject.toml",
        "Do that where the package works with it (hatch run model.NAME:test), and release those packages as well.",
    ]
    assert git(root, "status", "--porcelain") == ""
    file = root / "packages/xlm-aa/pyproject.toml"
    file.write_text(file.read_text().replace("<2", "<3"))
    assert release.main(["xlm-core", "major"]) == 0, "and what it proposes is enough"


def test_candidates_of_the_next_major_are_outside_too(root: Path) -> None:
    assert release.main(["xlm-core", "2.0.0rc1"]) == 1
    assert release.main(["xlm-core", "1.9.0rc1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xlm-zz", "minor"], "packages/ has no xlm-zz. Packages: xlm-core, xlm-aa"),
        (["xlm-aa", "1.1.0"], "1.1.0 comes before 1.2.0"),
        (["xlm-aa", "v1.3.0"], "'v1.3.0' is no version of a release here"),
        (["xlm-aa", "next"], "'next' is neither a version nor one of major, minor, patch"),
    ],
)
def test_what_cannot_be_meant(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert release.main(arguments) == 1
    assert message in capsys.readouterr().err
    assert git(root, "status", "--porcelain") == ""


def test_a_version_that_cannot_be_rewritten(root: Path) -> None:
    about = root / "packages/xlm-aa/src/aa/__about__.py"
    about.write_text('__version__ = (\n    "1.2.0"\n)\n')
    with pytest.raises(WorkspaceError, match="on one line, once"):
        release.versioned(about, Version("1.3.0"))


def test_no_repository(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(WorkspaceError, match="git status failed: fatal: not a git repository"):
        release.git(tmp_path_factory.mktemp("plain"), "status")

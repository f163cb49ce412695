"""Tests of the workspace tool on a small made-up workspace, and its rules on this repository."""

import json
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

import workspace
from workspace import WorkspaceError

MODEL = """\
[project]
name = "xlm-{name}"
dependencies = ["xlm-core>=1.0,<2", "torch>=2.6"]

[project.entry-points."xlm.models"]
{name} = "{name}"

[tool.hatch.version]
path = "src/{name}/__about__.py"

[tool.hatch.build.targets.wheel]
packages = ["src/{name}"]
"""
CORE = """\
[project]
name = "xlm-core"
dependencies = ["torch>=2.6"]

[tool.hatch.version]
path = "src/xlm/__about__.py"

[tool.hatch.build.targets.wheel]
packages = ["src/xlm"]
"""
HATCH = """\
[envs.default]
dependencies = ["pytest"]
[[envs.model.matrix]]
model = ["aa", "bb"]
[[envs.installed.matrix]]
model = ["aa", "bb"]
"""


def add_package(root: Path, folder: str, import_name: str, text: str) -> None:
    package = root / "packages" / folder
    source = package / "src" / import_name
    source.mkdir(parents=True)
    (package / "pyproject.toml").write_text(text)
    (source / "__about__.py").write_text('"""Version."""\n\n__version__ = "1.2.0"\n')
    (source / "py.typed").touch()
    (package / "CHANGELOG.md").write_text("# Changes\n\n## [1.2.0]\n\n- New.\n\n## [1.1.0]\n\n- Old.\n")
    for name in ("README.md", "LICENSE"):
        (package / name).touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_package(tmp_path, "xlm-core", "xlm", CORE)
    for name in ("aa", "bb"):
        add_package(tmp_path, f"xlm-{name}", name, MODEL.format(name=name))
    (tmp_path / "hatch.toml").write_text(HATCH)
    (tmp_path / "constraints.txt").write_text("# pins\ntorch==2.13.0\npytest==9.2.0\n")
    return tmp_path


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_every_rule_holds_here() -> None:
    assert workspace.check(workspace.ROOT) == []


def test_a_sound_workspace_has_no_breach(root: Path) -> None:
    assert workspace.check(root) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "breach"),
    [
        ("packages/xlm-aa/pyproject.toml", "xlm-aa", "xlm-cc", "holds a distribution named xlm-cc"),
        ("packages/xlm-aa/pyproject.toml", "<2", "", "without an upper bound"),
        ("packages/xlm-aa/pyproject.toml", ">=1.0,<2", ">=0.1,<0.2", "but xlm-core here is 1.2.0"),
        ("packages/xlm-aa/pyproject.toml", '"torch>=2.6"', '"xlm-bb<2"', "on no other package here"),
        ("packages/xlm-aa/pyproject.toml", 'aa = "aa"', 'ab = "aa"', "entry point group"),
        ("packages/xlm-core/pyproject.toml", "torch>=2.6", "xlm-aa<2", "xlm-core depends on xlm-aa"),
        ("packages/xlm-aa/CHANGELOG.md", "[1.2.0]", "[1.2.1]", "no section [1.2.0]"),
        (
            "hatch.toml",
            '[[envs.installed.matrix]]\nmodel = ["aa", "bb"]',
            '[[envs.installed.matrix]]\nmodel = ["aa"]',
            "envs.installed.matrix lists ['aa']",
        ),
        ("constraints.txt", "torch==2.13.0", "torch==2.13.0+cpu", "has a local version"),
        ("constraints.txt", "torch==2.13.0", "torch==2.5.0", "outside torch>=2.6"),
        ("constraints.txt", "pytest==9.2.0\n", "", "does not pin pytest"),
        (
            "constraints.txt",
            "pytest==9.2.0\n",
            "pytest==9.2.0\nnose==1.0\n",
            "nose, which nothing here asks for",
        ),
    ],
)
def test_each_breach_is_named(root: Path, file: str, old: str, new: str, breach: str) -> None:
    edit(root / file, old, new)
    assert [b for b in workspace.check(root) if breach in b]


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "LICENSE", "src/aa/py.typed"])
def test_a_missing_file_is_a_breach(root: Path, file: str) -> None:
    (root / "packages/xlm-aa" / file).unlink()
    assert f"xlm-aa: {file} is missing" in workspace.check(root)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], []),
        (["packages/xlm-aa/src/aa/x.py"], ["xlm-aa"]),
        (["packages/xlm-core/src/xlm/x.py"], ["xlm-core", "xlm-aa", "xlm-bb"]),
        (["packages/xlm-bb/README.md", "packages/xlm-aa/tests/t.py"], ["xlm-aa", "xlm-bb"]),
        (["README.md", "docs/guide/cli.md", "mkdocs.yml", "CITATION.cff"], []),
        ([".github/workflows/release.yml"], []),
        ([".github/workflows/ci.yml"], ["xlm-core", "xlm-aa", "xlm-bb"]),
        (["constraints.txt"], ["xlm-core", "xlm-aa", "xlm-bb"]),
        (["packages/stray.txt"], ["xlm-core", "xlm-aa", "xlm-bb"]),
        (None, ["xlm-core", "xlm-aa", "xlm-bb"]),
    ],
)
def test_changed_packages_bring_their_dependents(root: Path, files: list[str] | None, expected: list[str]) -> None:
    packages = workspace.read_packages(root)
    names = workspace.changed(files, packages)
    assert names == expected
    models = [n.removeprefix("xlm-") for n in expected if n != "xlm-core"]
    assert workspace.plan(names, packages) == {"packages": expected, "models": models}


def git(root: Path, *args: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *args], cwd=root, check=True, capture_output=True, text=True).stdout


def test_changes_since_a_commit(root: Path) -> None:
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    base = git(root, "rev-parse", "HEAD").strip()
    (root / "packages/xlm-aa/README.md").write_text("more\n")
    git(root, "commit", "-qam", "two")
    assert workspace.git_changes(root, base) == ["packages/xlm-aa/README.md"]
    assert workspace.git_changes(root, "0" * 40) is None
    with pytest.raises(WorkspaceError, match="git knows no commit 'nowhere'"):
        workspace.git_changes(root, "nowhere")


def test_a_tag_names_one_package(root: Path) -> None:
    packages = workspace.read_packages(root)
    package = workspace.read_tag("xlm-aa-v1.2.0", packages)
    assert (package.name, package.version) == ("xlm-aa", Version("1.2.0"))
    assert workspace.changelog_section(package, package.version) == "- New."


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("v1.2.0", "is no release tag"),
        ("xlm-zz-v1.2.0", "names no package"),
        ("xlm-aa-v1.3.0", "is at 1.2.0"),
    ],
)
def test_a_wrong_tag_is_explained(root: Path, tag: str, message: str) -> None:
    with pytest.raises(WorkspaceError, match=message):
        workspace.read_tag(tag, workspace.read_packages(root))


def test_commands(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(workspace, "ROOT", root)
    assert workspace.main(["check"]) == 0
    assert "every rule of the workspace holds" in capsys.readouterr().out
    assert workspace.main(["tag", "xlm-bb-v1.2.0"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "package": "xlm-bb",
        "version": "1.2.0",
        "path": "packages/xlm-bb",
    }
    assert workspace.main(["notes", "xlm-bb-v1.2.0"]) == 0
    assert capsys.readouterr().out == "- New.\n"
    assert workspace.main(["tag", "xlm-bb-v9"]) == 1
    assert "is at 1.2.0" in capsys.readouterr().err
    (root / "packages/xlm-aa/LICENSE").unlink()
    assert workspace.main(["check"]) == 1

"""Tests that the wheel checks find what they are there for: a sound wheel, and one mutation of it for each finding."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import wheels
from wheels import Archives, metadata_problems, sdist_problems, wheel_problems
from workspace import ROOT, Package, WorkspaceError, read_packages

PACKAGE = read_packages(ROOT)["xlm-ilm"]
INFO = f"xlm_ilm-{PACKAGE.version}.dist-info"
METADATA = "\n".join(
    [
        "Metadata-Version: 2.4",
        "Name: xlm-ilm",
        f"Version: {PACKAGE.version}",
        "Summary: A model",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
        *(f"Requires-Dist: {requirement}" for requirement in PACKAGE.requirements),
        "",
        "# A model",
    ]
)
Write = Callable[..., Path]


@pytest.fixture
def write_wheel(tmp_path: Path) -> Write:
    """Writes a wheel of xlm-ilm with files left out or added, and its metadata with one text replaced."""

    def write(without: str = "\0", also: tuple[str, ...] = (), old: str = "", new: str = "") -> Path:
        file = tmp_path / "made.whl"
        with zipfile.ZipFile(file, "w") as archive:
            for name in [*wheels.source_files(PACKAGE), *also]:
                if without not in name:
                    archive.writestr(name, "")
            archive.writestr(f"{INFO}/METADATA", METADATA.replace(old, new) if old else METADATA)
        return file

    return write


def test_a_sound_wheel(write_wheel: Write) -> None:
    assert list(wheel_problems(PACKAGE, write_wheel())) == []
    assert list(metadata_problems(PACKAGE, write_wheel())) == []


@pytest.mark.parametrize(
    ("without", "also", "finding"),
    [
        ("py.typed", (), "py.typed is missing: nobody's type checker will look at the package"),
        (".yaml", (), "no configs/**/*.yaml in the wheel: nothing of it can be chosen on the command line"),
        ("loss_ilm.py", (), "ilm/loss_ilm.py is not in the wheel"),
        ("\0", ("ilm/tests/test_loss.py",), "ilm/tests/test_loss.py is a test, and in the wheel"),
        ("\0", ("tests/conftest.py",), "tests/conftest.py is a test, and in the wheel"),
        ("\0", ("ilm/notes.txt",), "ilm/notes.txt is in the wheel, and should not be"),
    ],
)
def test_contents(write_wheel: Write, without: str, also: tuple[str, ...], finding: str) -> None:
    assert finding in list(wheel_problems(PACKAGE, write_wheel(without, also)))


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("Name: xlm-ilm", "Name: ilm", "the metadata says Name: ilm, not xlm-ilm"),
        (f"Version: {PACKAGE.version}", "Version: 0.1", f"the metadata says Version: 0.1, not {PACKAGE.version}"),
        ("Apache-2.0", "MIT", "the metadata says License-Expression: MIT, not Apache-2.0"),
        ("Summary: A model\n", "", "the metadata has no Summary"),
        ("Requires-Python: >=3.11\n", "", "the metadata has no Requires-Python"),
        ("License-File: LICENSE\n", "", "the metadata has no License-File"),
        ("# A model", "", "the metadata has no long description"),
        ("torch>=2.6", "torch @ https://example.org/torch.whl", "is a URL, which an index refuses"),
        ("xlm-core", "other-core", "the wheel doesn't require xlm-core"),
    ],
)
def test_metadata(write_wheel: Write, old: str, new: str, finding: str) -> None:
    assert any(finding in found for found in metadata_problems(PACKAGE, write_wheel(old=old, new=new)))


def test_an_sdist_that_cannot_be_tested_from(tmp_path: Path) -> None:
    file = tmp_path / "made.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(ROOT / "packages" / "xlm-ilm" / "README.md", "made/README.md")
    found = list(sdist_problems(PACKAGE, file))
    assert "CHANGELOG.md is not in the sdist" in found
    assert "src/ilm/py.typed is not in the sdist" in found
    assert "README.md is not in the sdist" not in found
    assert "the sdist has no tests" in found


def test_the_programs_of_an_index_are_asked(write_wheel: Write, tmp_path: Path) -> None:
    sdist = tmp_path / "made.tar.gz"
    tarfile.open(sdist, "w:gz").close()
    found = "\n".join(wheels.index_problems(Archives(sdist, write_wheel())))
    assert "twine: " in found
    assert "check_wheel_contents: " in found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xlm/testing/checks.py", False),
        ("xlm/scaffold/template/tests/test_template_model.py", False),
        ("xlm/data/tests/helpers.py", True),
        ("ilm/test_loss.py", True),
        ("ilm/latest_loss.py", False),
    ],
)
def test_what_is_a_test(name: str, expected: bool) -> None:
    assert wheels.is_test(name) is expected


def test_the_exit_code_and_a_line_for_each_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def build(package: Package, outdir: Path) -> Archives:
        return Archives(outdir / "made.tar.gz", outdir / f"{package.name}.whl")

    monkeypatch.setattr(wheels, "build", build)
    monkeypatch.setattr(wheels, "check", lambda package, archives: [])
    assert wheels.main(["--no-install", "--outdir", str(tmp_path), "xlm-ilm", "xlm-mlm"]) == 0
    assert capsys.readouterr().out == "xlm-ilm.whl: builds\nxlm-mlm.whl: builds\n"
    monkeypatch.setattr(wheels, "check", lambda package, archives: ["py.typed is missing"])
    assert wheels.main(["--no-install", "xlm-ilm"]) == 1
    assert capsys.readouterr().out == "xlm-ilm: py.typed is missing\n"
    assert wheels.main(["xlm-zz"]) == 1
    assert "packages/ has no xlm-zz. Packages: xlm-core, " in capsys.readouterr().err


def test_a_package_that_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "nowhere"\n')
    package = Package("xlm-zz", tmp_path, PACKAGE.version, "zz", (), (), {})
    with pytest.raises(WorkspaceError, match="xlm-zz cannot be built:\n"):
        wheels.build(package, tmp_path / "dist")

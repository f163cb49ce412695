"""The archives that are published: complete, nothing beside, and accepted by the tools that check them."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from workspace import ROOT, Package, read_packages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PACKAGES = read_packages(ROOT)


def run(*command: str) -> str:
    """Run a program of this environment; what it printed, which is also the message if it fails."""
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Package:
    return PACKAGES[request.param]


@pytest.fixture(scope="module")
def archives(package: Package, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from that sdist, as a release builds them."""
    folder = tmp_path_factory.mktemp("dist")
    run("python", "-m", "build", "--no-isolation", "--outdir", str(folder), str(package.path))
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def source_files(package: Package) -> set[str]:
    """What lies in src/, as paths inside the wheel."""
    source = package.path / "src"
    files = (p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(source).as_posix() for p in files}


def test_the_wheel_holds_every_source_file_and_no_other(package: Package, archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
    inside = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert inside == source_files(package)
    assert f"{package.import_name}/py.typed" in inside
    assert any(n.endswith(".yaml") for n in inside), "configs belong to the package"


def test_the_sdist_can_be_built_and_tested_from(package: Package, archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as sdist:
        names = {n.split("/", 1)[1] for n in sdist.getnames() if "/" in n}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert {f"src/{n}" for n in source_files(package)} <= names
    assert any(n.startswith("tests/") for n in names)


def test_the_metadata(package: Package, archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        names = wheel.namelist()
        (file,) = [n for n in names if n.endswith(".dist-info/METADATA")]
        text = wheel.read(file).decode()
    assert f"\nName: {package.name}\nVersion: {package.version}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert f"{file.split('/')[0]}/licenses/LICENSE" in names
    assert "://" not in "".join(line for line in text.splitlines() if line.startswith("Requires-Dist"))


def test_the_archives_pass_the_checks_of_an_index(archives: tuple[Path, Path]) -> None:
    run("twine", "check", "--strict", *map(str, archives))
    run("check-wheel-contents", "--config", str(ROOT / "pyproject.toml"), str(archives[1]))

"""Builds packages as a release does and checks what is published: contents, metadata, and that it installs and runs.

python tools/wheels.py                                      every package, in a temporary folder
python tools/wheels.py xlm-ilm                              that one
python tools/wheels.py --no-install --outdir dist xlm-ilm   build and look, but make no environment (a release)

Needs the programs build, twine and check-wheel-contents, and for installing also pip and the libraries that
the packages depend on: `hatch run wheels`.
"""

from __future__ import annotations

import argparse
import email
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from packaging.requirements import Requirement

from linked_environment import Environment, run
from workspace import CORE, ROOT, Package, WorkspaceError, read_packages

TEMPLATE = "xlm/scaffold/template/"  # what a scaffolded package is copied from, tests included


@dataclass(frozen=True)
class Archives:
    """The sdist, and the wheel built from that sdist."""

    sdist: Path
    wheel: Path


def build(package: Package, outdir: Path) -> Archives:
    """Build one package into `outdir`; WorkspaceError with the builder's words if that fails."""
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(outdir), str(package.path))
    if done.returncode:
        raise WorkspaceError(f"{package.name} cannot be built:\n{done.stdout}{done.stderr}")
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    return Archives(outdir / f"{stem}.tar.gz", outdir / f"{stem}-py3-none-any.whl")


def source_files(package: Package) -> set[str]:
    """What lies in src/, as paths inside the wheel."""
    source = package.path / "src"
    files = (p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(source).as_posix() for p in files}


def is_test(name: str) -> bool:
    """Whether a path inside a wheel is a test."""
    parts = name.split("/")
    file = parts[-1]
    return not name.startswith(TEMPLATE) and ("tests" in parts or file.startswith("test_") or file == "conftest.py")


def wheel_problems(package: Package, wheel: Path) -> Iterator[str]:
    """What the wheel lacks or has too much of: it holds every source file, and nothing else but its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    sources = source_files(package)
    yield from (f"{name} is not in the wheel" for name in sorted(sources - inside))
    yield from (f"{name} is in the wheel, and should not be" for name in sorted(inside - sources))
    yield from (f"{name} is a test, and in the wheel" for name in sorted(inside) if is_test(name))
    if f"{package.import_name}/py.typed" not in inside:
        yield "py.typed is missing: nobody's type checker will look at the package"
    if not any(n.startswith(f"{package.import_name}/configs/") and n.endswith(".yaml") for n in inside):
        yield "no configs/**/*.yaml in the wheel: nothing of it can be chosen on the command line"


def sdist_problems(package: Package, sdist: Path) -> Iterator[str]:
    """What somebody who builds and tests from the sdist would miss."""
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", *(f"src/{n}" for n in source_files(package))}
    yield from (f"{name} is not in the sdist" for name in sorted(needed - names))
    if not any(n.startswith("tests/") for n in names):
        yield "the sdist has no tests"


def read_metadata(wheel: Path) -> Message:
    """The METADATA file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def metadata_problems(package: Package, wheel: Path) -> Iterator[str]:
    """What the metadata says otherwise than the sources, or should not say at all."""
    found = read_metadata(wheel)
    expected = {"Name": package.name, "Version": str(package.version), "License-Expression": "Apache-2.0"}
    for key, value in expected.items():
        if found[key] != value:
            yield f"the metadata says {key}: {found[key]}, not {value}"
    for key in ("Summary", "Requires-Python", "License-File"):
        if not found[key]:
            yield f"the metadata has no {key}"
    if not str(found.get_payload()).strip():
        yield "the metadata has no long description"
    requirements = [Requirement(text) for text in found.get_all("Requires-Dist", [])]
    yield from (f"{r} is a URL, which an index refuses" for r in requirements if r.url)
    declared = {str(r) for r in package.requirements}
    yield from (f"the wheel doesn't require {r}" for r in sorted(declared - {str(r) for r in requirements}))


def index_problems(archives: Archives) -> Iterator[str]:
    """What the programs that know an index's rules say against the archives."""
    module = [sys.executable, "-m"]
    for command in (
        [*module, "twine", "check", "--strict", str(archives.sdist), str(archives.wheel)],
        [*module, "check_wheel_contents", "--config", str(ROOT / "pyproject.toml"), str(archives.wheel)],
    ):
        done = run(*command)
        if done.returncode:
            yield f"{command[2]}: {done.stdout.strip()} {done.stderr.strip()}"


def install_problems(package: Package, wheels: Path, folder: Path) -> Iterator[str]:
    """What goes wrong when `pip install` takes the package from a folder of wheels into an empty environment."""
    environment = Environment(folder / package.name)
    done = environment.install("--find-links", str(wheels), f"{package.name}=={package.version}")
    if done.returncode:
        yield f"pip install {package.name}: {done.stdout.strip()} {done.stderr.strip()}"
        return
    models = [package.model] if package.model else []
    alone = [str(ROOT / "tools" / "check_installed.py"), "--not-editable", *dict.fromkeys([CORE, package.name])]
    compose = ["-P", str(ROOT / "tools" / "compose_all.py"), *models]
    for program, arguments in (("xlm", ["--help"]), ("xlm", ["models"]), ("python", alone), ("python", compose)):
        done = environment.run(program, *arguments, cwd=folder)
        if done.returncode:
            yield f"`{program} {' '.join(arguments)}` ends with {done.returncode}:\n{done.stdout}{done.stderr}"
            return


def check(package: Package, archives: Archives) -> list[str]:
    """Everything that can be said against two archives without installing them."""
    return [
        *wheel_problems(package, archives.wheel),
        *sdist_problems(package, archives.sdist),
        *metadata_problems(package, archives.wheel),
        *index_problems(archives),
    ]


def check_all(packages: Mapping[str, Package], names: list[str], outdir: Path, *, install: bool) -> bool:
    """Build and check these packages, with a line for each; whether nothing was found."""
    sound = True
    if install and CORE not in names:
        build(packages[CORE], outdir)
    for name in names:
        archives = build(packages[name], outdir)
        found = check(packages[name], archives)
        if install:
            with tempfile.TemporaryDirectory() as folder:
                found += install_problems(packages[name], outdir, Path(folder))
        done = "builds, installs alone, and its experiments compose" if install else "builds"
        print("\n".join(found and [f"{name}: {f}" for f in found]) or f"{archives.wheel.name}: {done}", flush=True)
        sound = sound and not found
    return sound


def main(argv: list[str] | None = None) -> int:
    """Build and check; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--outdir", type=Path, help="where the archives stay (default: nowhere)")
    parser.add_argument("--no-install", action="store_true", help="make no environments")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    args = parser.parse_args(argv)
    packages = read_packages(ROOT)
    names = args.packages or list(packages)
    try:
        if unknown := [name for name in names if name not in packages]:
            raise WorkspaceError(f"packages/ has no {', '.join(unknown)}. Packages: {', '.join(packages)}")
        with tempfile.TemporaryDirectory() as folder:
            return int(not check_all(packages, names, args.outdir or Path(folder), install=not args.no_install))
    except WorkspaceError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

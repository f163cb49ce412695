"""Facts about the packages of this repository: check them, which of them changed, what a release tag names.

python tools/workspace.py check           every rule of the workspace; one line for each breach
python tools/workspace.py models          names of the model packages, one a line
python tools/workspace.py changed BASE    JSON: packages touched since a commit, and their dependents
python tools/workspace.py tag NAME-vX     JSON: package, version and folder of a release tag
python tools/workspace.py notes NAME-vX   the changelog's section for that version
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CORE = "xlm-core"
GROUP = "xlm.models"
MATRICES = ("model", "installed")
# Files outside packages/ that no test of a package depends on; any other file outside means "all of them".
PROSE = re.compile(r"(docs/|\.github/(?!workflows/ci\.yml)|mkdocs\.yml|LICENSE|CITATION\.cff|[^/]*\.md$)")


class WorkspaceError(Exception):
    """A rule of the workspace is broken, or a question names something that is not there."""


@dataclass(frozen=True)
class Package:
    """One folder of packages/, as its pyproject.toml describes it."""

    name: str
    path: Path
    version: Version
    import_name: str
    requirements: tuple[Requirement, ...]
    optional: tuple[Requirement, ...]
    entry_points: dict[str, str]

    @property
    def model(self) -> str | None:
        """Name of the model, None for core."""
        return None if self.name == CORE else self.name.removeprefix("xlm-")

    def siblings(self, names: set[str]) -> list[Requirement]:
        """Its requirements on packages of this repository."""
        return [r for r in self.requirements if canonicalize_name(r.name) in names]


def read_version(file: Path) -> Version:
    """The `__version__` that a file assigns, without running it."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return Version(ast.literal_eval(node.value))
    raise WorkspaceError(f"{file} assigns no __version__")


def version_file(path: Path) -> Path:
    """The file of a package's folder that assigns `__version__`."""
    data = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))
    return path / data["tool"]["hatch"]["version"]["path"]


def read_package(path: Path) -> Package:
    """Read one package's metadata; WorkspaceError if it lacks what every package here has."""
    data = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))
    try:
        project, hatch = data["project"], data["tool"]["hatch"]
        about = path / hatch["version"]["path"]
        import_name = Path(hatch["build"]["targets"]["wheel"]["packages"][0]).name
    except KeyError as error:
        raise WorkspaceError(f"{path / 'pyproject.toml'} has no {error}") from error
    extras = project.get("optional-dependencies", {}).values()
    return Package(
        name=project["name"],
        path=path,
        version=read_version(about),
        import_name=import_name,
        requirements=tuple(Requirement(r) for r in project.get("dependencies", [])),
        optional=tuple(Requirement(r) for extra in extras for r in extra),
        entry_points=project.get("entry-points", {}).get(GROUP, {}),
    )


def read_packages(root: Path) -> dict[str, Package]:
    """All packages by the name of their folder, core first."""
    paths = sorted((root / "packages").glob("xlm-*/pyproject.toml"), key=lambda p: (p.parent.name != CORE, p))
    return {p.parent.name: read_package(p.parent) for p in paths}


def check_package(package: Package, packages: dict[str, Package]) -> list[str]:
    """Breaches of the rules for one package: names, files, ranges, entry point, changelog."""
    found = []
    if package.name != package.path.name:
        found.append(f"folder {package.path.name} holds a distribution named {package.name}")
    for file in ("README.md", "CHANGELOG.md", "LICENSE", f"src/{package.import_name}/py.typed"):
        if not (package.path / file).is_file():
            found.append(f"{package.name}: {file} is missing")
    if not changelog_section(package, package.version):
        found.append(f"{package.name}: CHANGELOG.md has no section [{package.version}]")
    for requirement in package.siblings(set(packages)):
        found += check_range(package, requirement, packages[canonicalize_name(requirement.name)])
    return found + (check_model(package, packages) if package.model else check_core(package, packages))


def check_core(package: Package, packages: dict[str, Package]) -> list[str]:
    """Core depends on no model and offers none."""
    found = [f"{CORE} depends on {r.name}" for r in package.siblings(set(packages))]
    return found + [f"{CORE} has an entry point in {GROUP}: {name}" for name in package.entry_points]


def check_model(package: Package, packages: dict[str, Package]) -> list[str]:
    """A model depends on core alone, and its one entry point has its name."""
    found = []
    siblings = sorted(canonicalize_name(r.name) for r in package.siblings(set(packages)))
    if siblings != [CORE]:
        found.append(f"{package.name} must depend on {CORE} and on no other package here, not on {siblings}")
    if package.entry_points != {package.model: package.import_name}:
        found.append(f'{package.name}: entry point group "{GROUP}" must be {package.model} = "{package.model}"')
    if package.import_name != package.model:
        found.append(f"{package.name} installs {package.import_name}, not {package.model}")
    return found


def check_range(package: Package, requirement: Requirement, target: Package) -> list[str]:
    """A range on a sibling admits the sibling's present version and has an upper bound."""
    found = []
    if not requirement.specifier.contains(target.version):
        found.append(f"{package.name} wants {requirement}, but {target.name} here is {target.version}")
    if not any(s.operator in {"<", "<=", "~=", "=="} for s in requirement.specifier):
        found.append(f"{package.name} wants {requirement}, without an upper bound")
    return found


def check_matrices(hatch: dict[str, Any], packages: dict[str, Package]) -> list[str]:
    """Both matrices of hatch.toml list every model and nothing else."""
    models = {p.model for p in packages.values() if p.model}
    found = []
    for env in MATRICES:
        listed = {model for part in hatch["envs"][env]["matrix"] for model in part["model"]}
        if listed != models:
            found.append(f"hatch.toml: envs.{env}.matrix lists {sorted(listed)}, packages/ has {sorted(models)}")
    return found


def check_constraints(root: Path, hatch: dict[str, Any], packages: dict[str, Package]) -> list[str]:
    """Every direct dependency has a pin, without a local version and inside the published ranges."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    pinned = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in pins}
    wanted = [r for p in packages.values() for r in (*p.requirements, *p.optional)]
    listed = ("dependencies", "extra-dependencies")
    in_envs = [r for env in hatch["envs"].values() for key in listed for r in env.get(key, [])]
    wanted += [Requirement(r) for r in in_envs if "{root" not in r]
    found = [f"constraints.txt: {v} of {n} has a local version" for n, v in pinned.items() if "+" in v]
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name in packages:
            continue
        if name not in pinned:
            found.append(f"constraints.txt does not pin {name}")
        elif not requirement.specifier.contains(pinned[name]):
            found.append(f"constraints.txt pins {name} to {pinned[name]}, outside {requirement}")
    unused = pinned.keys() - {canonicalize_name(r.name) for r in wanted}
    return sorted({*found, *(f"constraints.txt pins {name}, which nothing here asks for" for name in unused)})


def check(root: Path) -> list[str]:
    """All breaches of the workspace's rules, as sentences."""
    packages = read_packages(root)
    if CORE not in packages:
        return [f"packages/ has no {CORE}"]
    hatch = tomllib.loads((root / "hatch.toml").read_text(encoding="utf-8"))
    found = [breach for package in packages.values() for breach in check_package(package, packages)]
    return found + check_matrices(hatch, packages) + check_constraints(root, hatch, packages)


def changelog_section(package: Package, version: Version) -> str:
    """Text under the heading `## [version]` of the package's changelog, "" if there is none."""
    file = package.path / "CHANGELOG.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        if re.match(rf"\[?{re.escape(str(version))}\]?(\s|$)", heading):
            return body.strip()
    return ""


def git_changes(root: Path, base: str) -> list[str] | None:
    """Files that differ from the fork point with `base`; None if git knows no such commit (a first push)."""
    known = subprocess.run(["git", "cat-file", "-e", f"{base}^{{commit}}"], cwd=root, capture_output=True, check=False)
    if known.returncode:
        if set(base) == {"0"}:
            return None
        raise WorkspaceError(f"git knows no commit {base!r}. Was the repository cloned with its whole history?")
    command = ["git", "diff", "--name-only", "--merge-base", base]
    return subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout.splitlines()


def changed(files: list[str] | None, packages: dict[str, Package]) -> list[str]:
    """Packages that a list of changed files touches and, transitively, the packages that depend on them."""
    touched: set[str] = set()
    for file in files or []:
        owner = file.split("/")[1] if file.startswith("packages/") else None
        if owner in packages:
            touched.add(owner)
        elif not PROSE.match(file):
            files = None
            break
    if files is None:
        return list(packages)
    grown = True
    while grown:
        dependents = {n for n, p in packages.items() if p.siblings(touched)} - touched
        touched, grown = touched | dependents, bool(dependents)
    return [name for name in packages if name in touched]


def plan(names: list[str], packages: dict[str, Package]) -> dict[str, list[str]]:
    """What CI builds its matrix from: packages, and the models among them."""
    return {"packages": names, "models": [m for n in names if (m := packages[n].model)]}


def read_tag(tag: str, packages: dict[str, Package]) -> Package:
    """The package that a tag such as `xlm-ilm-v1.1.0` releases; WorkspaceError unless both agree."""
    match = re.fullmatch(r"(?P<name>xlm-[a-z0-9-]+)-v(?P<version>\d[^/]*)", tag)
    if not match:
        raise WorkspaceError(f"{tag!r} is no release tag. One looks like xlm-core-v1.2.0")
    if match["name"] not in packages:
        raise WorkspaceError(f"{tag!r} names no package here. Packages: {', '.join(packages)}")
    package = packages[match["name"]]
    if Version(match["version"]) != package.version:
        raise WorkspaceError(
            f"{tag!r}, but {package.name} is at {package.version}. Run `hatch run tools:release` first"
        )
    return package


def command_check() -> int:
    """Print every breach, and say how many there are by the exit code."""
    breaches = check(ROOT)
    print("\n".join(breaches) or f"{len(read_packages(ROOT))} packages, every rule of the workspace holds")
    return int(bool(breaches))


def command_changed(base: str) -> int:
    """Print the plan of a CI run as JSON."""
    packages = read_packages(ROOT)
    print(json.dumps(plan(changed(git_changes(ROOT, base), packages), packages)))
    return 0


def command_tag(tag: str) -> int:
    """Print what a release tag names as JSON."""
    package = read_tag(tag, read_packages(ROOT))
    folder = package.path.relative_to(ROOT).as_posix()
    print(json.dumps({"package": package.name, "version": str(package.version), "path": folder}))
    return 0


def command_notes(tag: str) -> int:
    """Print the release notes of a tag."""
    package = read_tag(tag, read_packages(ROOT))
    section = changelog_section(package, package.version)
    if not section:
        raise WorkspaceError(f"{package.name}: CHANGELOG.md says nothing about {package.version}")
    print(section)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("check").set_defaults(run=lambda _: command_check())
    for name, run in (("changed", command_changed), ("tag", command_tag), ("notes", command_notes)):
        sub = commands.add_parser(name)
        sub.add_argument("value", metavar="BASE" if name == "changed" else "TAG")
        sub.set_defaults(run=lambda args, run=run: run(args.value))
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except WorkspaceError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

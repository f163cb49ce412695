"""Prepares the release of one package: version and changelog, after checking that nothing stands against it.

python tools/release.py xlm-ilm minor            1.0.3 becomes 1.1.0; also: major, patch
python tools/release.py xlm-ilm 1.1.0rc1         exactly this version
python tools/release.py xlm-ilm minor --dry-run  the same checks and the same plan, nothing written

It writes two files and prints the commands that commit, tag and push them. The tag starts release.yml.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from workspace import CORE, ROOT, Package, WorkspaceError, read_packages, version_file

PARTS = ("major", "minor", "patch")
UNRELEASED = "Unreleased"
# `## [1.0.0]`, `## [1.0.0] - 2026-01-31`, `## Unreleased`
HEADING = re.compile(r"^## \[?(?P<name>[^\]\s]+)\]?(?P<rest>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Release:
    """One package at its next version: the texts of the files to write, and the tag that publishes it."""

    package: Package
    version: Version
    files: Mapping[Path, str]

    @property
    def tag(self) -> str:
        """The tag that release.yml listens to."""
        return f"{self.package.name}-v{self.version}"


def bump(current: Version, part: str) -> Version:
    """The next release after `current` that differs in `part`; 1.1.0rc1 leads to 1.1.0 by `minor` and by `patch`."""
    numbers = [*current.release, 0, 0][:3]
    place = PARTS.index(part)
    if not (current.is_prerelease and not any(numbers[place + 1 :])):
        numbers = [*numbers[:place], numbers[place] + 1, *[0] * (2 - place)]
    return Version(".".join(map(str, numbers)))


def next_version(current: Version, wanted: str) -> Version:
    """`wanted` is a part to bump or a version as it will be written; WorkspaceError for anything else."""
    if wanted in PARTS:
        return bump(current, wanted)
    try:
        version = Version(wanted)
    except InvalidVersion as error:
        raise WorkspaceError(f"{wanted!r} is neither a version nor one of {', '.join(PARTS)}") from error
    if str(version) != wanted or version.local or version.epoch:
        raise WorkspaceError(f"{wanted!r} is no version of a release here. One looks like 1.2.0 or 1.2.0rc1")
    if version < current:
        raise WorkspaceError(f"{version} comes before {current}, which the package is at")
    return version


def dated_changelog(text: str, version: Version, day: date) -> str:
    """The changelog with its topmost section made that of `version`; WorkspaceError if nothing waits for release.

    What waits stands under `[Unreleased]`, or under `[version]` without a date (before a first release).
    """
    headings = list(HEADING.finditer(text))
    wanted = f"CHANGELOG.md has nothing to release as {version}"
    if not headings:
        raise WorkspaceError(f"{wanted}: it has no heading `## [{UNRELEASED}]`")
    top, *older = headings
    if top["rest"].strip() or top["name"].casefold() not in {UNRELEASED.casefold(), str(version)}:
        found = f"its topmost section is `{top[0].strip()}`"
        raise WorkspaceError(f"{wanted}: {found}, and no `## [{UNRELEASED}]` with the changes is above that")
    if any(heading["name"] == str(version) for heading in older):
        raise WorkspaceError(f"{wanted}: it has a section of that version already")
    body = text[top.end() : older[0].start() if older else len(text)]
    if not any(line.strip() and not line.startswith("#") for line in body.splitlines()):
        raise WorkspaceError(f"{wanted}: `{top[0].strip()}` is empty")
    return f"{text[: top.start()]}## [{version}] - {day.isoformat()}{text[top.end() :]}"


def as_written(specifier: SpecifierSet) -> str:
    """A range in the order in which people write it: lower bounds, then upper bounds."""
    return ",".join(sorted(map(str, specifier), key=lambda s: (s.startswith("<"), s)))


def widened(specifier: SpecifierSet, version: Version) -> str:
    """A range from where `specifier` begins to the end of `version`'s major number; it holds `version`."""
    end = f"<{version.major + 1}"
    begin = [f">={s.version.removesuffix('.*')}" for s in specifier if s.operator in {">=", "~=", "=="}]
    wide = ",".join([*begin, end])
    return wide if SpecifierSet(wide).contains(version, prereleases=True) else f">={version},{end}"


def broken_ranges(version: Version, packages: Mapping[str, Package]) -> list[str]:
    """What stands against core's next version: a sentence for each package whose declared range leaves it out."""
    found = []
    for package in packages.values():
        for requirement in package.siblings({CORE}):
            if not requirement.specifier.contains(version, prereleases=True):
                found.append(
                    f"  {package.name} wants {CORE}{as_written(requirement.specifier)}: write "
                    f"{CORE}{widened(requirement.specifier, version)} in packages/{package.path.name}/pyproject.toml"
                )
    return found


def git(root: Path, *arguments: str) -> str:
    """What git prints; WorkspaceError with its own words if it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkspaceError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def check_repository(root: Path, package: Package, tag: str) -> None:
    """WorkspaceError if the package has changes that aren't committed, or the tag exists."""
    dirty = git(root, "status", "--porcelain", "--", str(package.path)).splitlines()
    if dirty:
        raise WorkspaceError("\n".join([f"{package.name} has changes that are not committed:", *dirty]))
    if git(root, "tag", "--list", tag).strip():
        raise WorkspaceError(f"the tag {tag} exists: {package.name} was released at that version already")


def plan(root: Path, name: str, wanted: str, day: date) -> Release:
    """Everything that the release will write, with nothing written; WorkspaceError if something stands against it."""
    packages = read_packages(root)
    if name not in packages:
        raise WorkspaceError(f"packages/ has no {name}. Packages: {', '.join(packages)}")
    package = packages[name]
    version = next_version(package.version, wanted)
    check_repository(root, package, f"{name}-v{version}")
    if name == CORE and (breaches := broken_ranges(version, packages)):
        head = f"{CORE} {version} is outside the ranges that other packages declare:"
        foot = (
            "Do that where the package works with it (hatch run model.NAME:test), and release those packages as well."
        )
        raise WorkspaceError("\n".join([head, *breaches, foot]))
    about, changelog = version_file(package.path), package.path / "CHANGELOG.md"
    if not changelog.is_file():
        raise WorkspaceError(f"{name} has no CHANGELOG.md")
    texts = {
        about: versioned(about, version),
        changelog: dated_changelog(changelog.read_text(encoding="utf-8"), version, day),
    }
    # A first release has its version already.
    changed = {file: text for file, text in texts.items() if text != file.read_text(encoding="utf-8")}
    return Release(package, version, changed)


def versioned(about: Path, version: Version) -> str:
    """The text of a file with another `__version__`."""
    text = about.read_text(encoding="utf-8")
    new, num_changed = re.subn(r'(?m)^(__version__\s*=\s*)(["\']).*?\2', rf"\g<1>\g<2>{version}\g<2>", text)
    if num_changed != 1:
        raise WorkspaceError(f"{about} must assign a text to __version__ on one line, once")
    return new


def report(release: Release, root: Path, *, dry_run: bool) -> str:
    """What was (or would be) written, and the commands that come next."""
    package, tag = release.package, release.tag
    files = [file.relative_to(root).as_posix() for file in release.files]
    folder = package.path.relative_to(root).as_posix()
    env = f"hatch run model.{package.model}:test" if package.model else "hatch run test"
    return "\n".join(
        [
            f"{package.name}: {package.version} → {release.version}, tag {tag}",
            *(f"  {'would write' if dry_run else 'wrote'} {file}" for file in files),
            "Next:",
            f"  {env}",
            f'  git commit -m "Release {package.name} {release.version}" -- {folder}',
            f'  git tag -a {tag} -m "{package.name} {release.version}"',
            f"  git push origin HEAD {tag}",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Check, write unless told not to, and print what comes next; 1 if something stands against the release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("package", metavar="PACKAGE")
    parser.add_argument("version", metavar="VERSION", help="major, minor, patch, or the version itself")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    try:
        release = plan(ROOT, args.package, args.version, datetime.now(UTC).date())
    except WorkspaceError as error:
        print(f"Not released: {error}", file=sys.stderr)
        return 1
    if not args.dry_run:
        for file, text in release.files.items():
            file.write_text(text, encoding="utf-8")
    print(report(release, ROOT, dry_run=args.dry_run))
    return 0


if __name__ == "__main__":
    sys.exit(main())

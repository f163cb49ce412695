"""The licences of everything that the default install brings, from the metadata of the installed packages.

python tools/licences.py [REQUIREMENT …]     by default xlm-core and all model packages, without extras
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workspace import ROOT, read_packages

# A default install must not bring these: they would apply to programs that use xlm. The LGPL and the MPL don't.
_REFUSED = re.compile(
    r"(?<!L)(?<!Lesser )\bA?GPL|(?<!Lesser )General Public|Affero|SSPL|Server Side Public|NonCommercial"
)


@dataclass(frozen=True)
class Licence:
    """A package's licence as its metadata give it; `text` is empty if they give none."""

    name: str
    version: str
    text: str

    @property
    def problem(self) -> str:
        """Why the package can't be part of a default install, as a sentence; empty if it can."""
        if not self.text:
            return f"{self.name} {self.version} has no licence in its metadata."
        if _REFUSED.search(self.text) and " OR " not in self.text:
            return f"{self.name} {self.version} is under {self.text}; it may only be an extra."
        return ""


def closure(requirements: Iterable[str]) -> Iterator[Licence]:
    """The installed packages that requirements bring, each once; those that aren't installed here are left out."""
    waiting = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()
    named: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        try:
            found = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            continue
        if name not in named:
            named.add(name)
            yield Licence(name, found.version, licence_of(found))
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in found.requires or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)


def licence_of(found: metadata.Distribution) -> str:
    """An expression, else the classifiers, else the first line of the old field; empty without any."""
    fields = found.metadata
    if "License-Expression" in fields:
        return fields["License-Expression"]
    classifiers = fields.get_all("Classifier") or []
    named = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")]
    named = [text for text in named if text != "OSI Approved"]
    if named:
        return ", ".join(named)
    return fields["License"].strip().partition("\n")[0] if "License" in fields else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the licences; returns 1 if a package can't be part of a default install."""
    words = list(sys.argv[1:] if argv is None else argv) or list(read_packages(ROOT))
    licences = sorted(closure(words), key=lambda licence: licence.name)
    for licence in licences:
        print(f"{licence.name:<28} {licence.version:<16} {licence.text[:80]}")
    problems = [licence.problem for licence in licences if licence.problem]
    for problem in problems:
        print(f"Error: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())

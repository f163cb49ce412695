"""Finds installed model packages by entry point and by XLM_MODELS_PACKAGES, importing none of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ENTRY_POINT_GROUP = "xlm.models"
PACKAGES_VARIABLE = "XLM_MODELS_PACKAGES"


@dataclass(frozen=True)
class InstalledEntry:
    """Someone says that the import package `package` is the model `name`."""

    name: str
    package: str
    source: str
    version: str | None


def entry_point_entries() -> Iterator[InstalledEntry]:
    """One entry for each entry point of the group `xlm.models` in this environment."""
    # Sorted, because the order of installation decides nothing that a user could know of.
    for point in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        distribution = point.dist
        owner = distribution.name if distribution else "an unknown distribution"
        version = distribution.version if distribution else None
        yield InstalledEntry(point.name, point.value.partition(":")[0].strip(), f"entry point of {owner}", version)


def listed_entries(value: str) -> Iterator[InstalledEntry]:
    """One entry for each name in `value`, a colon-separated list of import packages."""
    for package in dict.fromkeys(part.strip() for part in value.split(":")):
        if package:
            yield InstalledEntry(package.rpartition(".")[2], package, PACKAGES_VARIABLE, _version_of(package))


def locate_package(package: str, regular: bool = False) -> Path | None:
    """The directory of an importable package, or None; only finders run, no code of the package.

    `regular` leaves out namespace packages: folders without `__init__.py`, which yield to any other package.
    """
    parts = package.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        return None
    if spec is None or (regular and spec.origin is None):
        return None
    for location in spec.submodule_search_locations or []:
        directory = Path(location).joinpath(*parts[1:])
        if directory.is_dir():
            return directory.resolve()
    return None


def locate_import(name: str) -> Path | None:
    """What `import name` finds: the directory of a package, else the file of a module; None for neither.

    Folders without `__init__.py` don't count: they yield to any package.
    """
    directory = locate_package(name, regular=True)
    if directory is not None or not name.isidentifier():
        return directory
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None


def _version_of(package: str) -> str | None:
    for name in (package, f"xlm-{package}"):
        try:
            return metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            continue
    return None

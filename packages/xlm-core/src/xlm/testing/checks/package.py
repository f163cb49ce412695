"""Checks of the package: it is found, its experiments compose, their dotted paths import, its wheel has the configs."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from packaging.requirements import Requirement

from xlm.errors import XLMError
from xlm.external_models import ModelPackage
from xlm.testing.contract import Inapplicable, Violation, require
from xlm.testing.model_under_test import ModelUnderTest, without_experiment
from xlm.utils.imports import get_object

# Keys whose values are dotted paths, and sections of which every value is one.
_PATH_KEYS = (
    "_target_",
    "update_fn",
    "print_batch_fn",
    "preprocess_function",
    "on_the_fly_processor",
    "on_the_fly_group_processor",
    "dataset_constructor_str",
)
_PATH_SECTIONS = ("metric_inputs",)
_PROJECT = ("pyproject.toml", "setup.py")
_NEVER_PACKAGED = shutil.ignore_patterns(".git", "__pycache__", ".venv", "venv", "*.egg-info")
# At the top of a source folder these contain leftovers of runs and builds, unless they are packages.
_LEFTOVERS = ("build", "dist", "runs", "data")
_BUILD = "import importlib, sys; b = importlib.import_module(sys.argv[1]); print(b.build_wheel(sys.argv[2]))"


def discovered(model: ModelUnderTest) -> None:
    """The package is found, and importing it works."""
    package = model.package
    module = importlib.import_module(package.import_name)
    places = [str(place) for place in getattr(module, "__path__", [])]
    require(
        str(package.package_dir.resolve()) in places or str(package.package_dir) in places,
        f"`import {package.import_name}` imports {', '.join(places) or module}, not {package.package_dir}.",
    )


def composes(model: ModelUnderTest) -> None:
    """Every experiment composes, and so does the scaled-down one that the other checks use."""
    try:
        model.composed  # noqa: B018 - composing is the check
        model.cfg  # noqa: B018
    except XLMError as error:
        raise Violation(str(error)) from error


def composes_overfit(model: ModelUnderTest) -> None:
    """Every experiment composes with debug=overfit."""
    for name in model.composed:
        if not name:
            model.compose(*without_experiment(model.name, model.name), "debug=overfit")
            continue
        try:
            model.compose(f"experiment={name}", "debug=overfit")
        except XLMError as error:
            raise Violation(f"experiment={name} debug=overfit: {error}") from error


def targets(model: ModelUnderTest) -> None:
    """Every dotted path in the experiments can be imported."""
    seen: set[str] = set()
    for name, cfg in model.composed.items():
        plain = OmegaConf.to_container(cfg, resolve=False)
        for key, path in _dotted_paths(plain, ""):
            if path not in seen:
                seen.add(path)
                try:
                    get_object(path, key=key)
                except XLMError as error:
                    raise Violation(f"experiment={name}: {error}" if name else str(error)) from error


def _dotted_paths(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Key and value of every dotted path that is written literally in a plain tree."""
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        dotted = f"{key}.{name}" if key else str(name)
        is_path = name in _PATH_KEYS or key in _PATH_SECTIONS
        if isinstance(child, dict | list):
            yield from _dotted_paths(child, dotted)
        elif is_path and isinstance(child, str) and "${" not in child and child != "???":
            yield dotted, child


def wheel(model: ModelUnderTest) -> None:
    """A wheel built from a copy of the source contains every config; an installed package has configs."""
    package = model.package
    configs = package.config_dir if package.config_dir.name == "configs" else package.config_dir.parent
    files = sorted(path.relative_to(configs) for path in configs.rglob("*.y*ml"))
    require(files, f"There is no YAML file in {configs}.")
    source = project_of(package)
    if source is None:
        if package.import_root is None:
            return  # installed from a wheel, which has the files that were just found
        raise Inapplicable("it has no pyproject.toml or setup.py, so no wheel can be built")
    inside = _wheel_names(source, model.folder)
    wanted = [f"{package.import_name}/configs/{path.as_posix()}" for path in files]
    missing = [name for name in wanted if name not in inside]
    require(not missing, f"The wheel lacks {len(missing)} of {len(wanted)} configs, such as {', '.join(missing[:2])}.")


def project_of(package: ModelPackage) -> Path | None:
    """The folder from which the package is built; None if there is none or it is installed from a wheel."""
    above = package.package_dir.parent
    candidates = [package.root, package.package_dir]
    if above == package.root or package.import_root is None:
        candidates.append(above)
    if above.name == "src":
        candidates.append(above.parent)
    for folder in candidates:
        if any((folder / name).is_file() for name in _PROJECT):
            return folder
    return None


def _wheel_names(source: Path, folder: Path) -> set[str]:
    """The files in a wheel built from a copy; Inapplicable if the build tool isn't installed."""
    copy, out = folder / "source" / source.name, folder / "wheel"

    def ignored(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        leftovers = {name for name in _LEFTOVERS if here == source and not (here / name / "__init__.py").exists()}
        return _NEVER_PACKAGED(folder, names) | (leftovers & set(names))

    shutil.copytree(source, copy, ignore=ignored)
    out.mkdir()
    backend, requires = "setuptools.build_meta", []
    if (copy / "pyproject.toml").is_file():
        system = tomllib.loads((copy / "pyproject.toml").read_text(encoding="utf-8")).get("build-system", {})
        backend, requires = system.get("build-backend", backend), system.get("requires", [])
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", _BUILD, backend, str(out)]
    built = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    lines = (built.stderr.strip() or built.stdout.strip() or "no output").splitlines()
    # Build tools explain an error over several lines; the one that names it is the most useful.
    error = next((line for line in reversed(lines) if "Error" in line), lines[-1])
    if built.returncode and f"No module named '{backend.split('.')[0]}'" in error:
        raise Inapplicable(f"its build backend {backend.split('.')[0]} is not installed")
    if built.returncode and (unmet := _unmet(requires)):
        raise Inapplicable(f"its build requirement {unmet[0]} is not installed")
    require(built.returncode == 0, f"The wheel cannot be built: {error}")
    (archive,) = out.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def _unmet(requires: list[str]) -> list[str]:
    """The build requirements that are not installed, or not in a suitable version."""
    unmet = []
    for text in requires:
        requirement = Requirement(text)
        try:
            met = requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
        except metadata.PackageNotFoundError:
            met = False
        unmet += [] if met else [text]
    return unmet

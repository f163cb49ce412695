"""The wheel: a model without its configs installs and cannot be used."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

from xlm.external_models import ModelPackage
from xlm.testing.properties import Inapplicable, require
from xlm.testing.subject import Subject

_PROJECT = ("pyproject.toml", "setup.py")
_NEVER_PACKAGED = shutil.ignore_patterns(".git", "__pycache__", ".venv", "venv", "*.egg-info")
# At the top of a source folder these hold what runs and builds left, unless they are packages.
_LEFT_BEHIND = ("build", "dist", "runs", "data")
_BUILD = "import importlib, sys; b = importlib.import_module(sys.argv[1]); print(b.build_wheel(sys.argv[2]))"


def wheel(subject: Subject) -> None:
    """Built from a copy of its source; of an installed package, the files that are there."""
    package = subject.package
    configs = package.config_dir if package.config_dir.name == "configs" else package.config_dir.parent
    files = sorted(path.relative_to(configs) for path in configs.rglob("*.y*ml"))
    require(files, f"There is no YAML file in {configs}.")
    source = project_of(package)
    if source is None:
        if package.import_root is None:
            return  # installed from a wheel, and the files were found just now
        raise Inapplicable("it has no pyproject.toml or setup.py, so that no wheel can be built")
    inside = _wheel_names(source, subject.folder)
    wanted = [f"{package.import_name}/configs/{path.as_posix()}" for path in files]
    missing = [name for name in wanted if name not in inside]
    require(not missing, f"The wheel lacks {len(missing)} of {len(wanted)} configs, such as {', '.join(missing[:2])}.")


def project_of(package: ModelPackage) -> Path | None:
    """The folder from which the package is built; None for one that isn't, or is installed from a wheel."""
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
    """What a wheel of a copy contains; Inapplicable where the tool that builds it isn't installed."""
    copy, out = folder / "source" / source.name, folder / "wheel"

    def left_out(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        behind = {name for name in _LEFT_BEHIND if here == source and not (here / name / "__init__.py").exists()}
        return _NEVER_PACKAGED(folder, names) | (behind & set(names))

    shutil.copytree(source, copy, ignore=left_out)
    out.mkdir()
    backend, requires = "setuptools.build_meta", []
    if (copy / "pyproject.toml").is_file():
        system = tomllib.loads((copy / "pyproject.toml").read_text(encoding="utf-8")).get("build-system", {})
        backend, requires = system.get("build-backend", backend), system.get("requires", [])
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", _BUILD, backend, str(out)]
    built = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    lines = (built.stderr.strip() or built.stdout.strip() or "nothing").splitlines()
    # Tools explain over several lines, of which the first that names an error says most.
    said = next((line for line in reversed(lines) if "Error" in line), lines[-1])
    if built.returncode and f"No module named '{backend.split('.')[0]}'" in said:
        raise Inapplicable(f"{backend.split('.')[0]}, which builds it, is not installed here")
    if built.returncode and (lacking := _unmet(requires)):
        raise Inapplicable(f"it is built with {lacking[0]}, which this environment lacks")
    require(built.returncode == 0, f"The wheel cannot be built: {said}")
    (archive,) = out.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def _unmet(requires: list[str]) -> list[str]:
    """Those of a build's requirements that are not installed, or in another version."""
    unmet = []
    for text in requires:
        requirement = Requirement(text)
        try:
            met = requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
        except metadata.PackageNotFoundError:
            met = False
        unmet += [] if met else [text]
    return unmet

"""The wheel: a model without its configs installs and cannot be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from xlm.external_models import ModelPackage
from xlm.testing.properties import Inapplicable, require
from xlm.testing.subject import Subject

_PROJECT = ("pyproject.toml", "setup.py")
_LEFT_OUT = shutil.ignore_patterns(
    ".git", "__pycache__", ".venv", "venv", "build", "dist", "runs", "data", "*.egg-info"
)
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
    shutil.copytree(source, copy, ignore=_LEFT_OUT)
    out.mkdir()
    backend = "setuptools.build_meta"
    if (copy / "pyproject.toml").is_file():
        system = tomllib.loads((copy / "pyproject.toml").read_text(encoding="utf-8")).get("build-system", {})
        backend = system.get("build-backend", backend)
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", _BUILD, backend, str(out)]
    built = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    said = (built.stderr.strip() or built.stdout.strip() or "nothing").splitlines()[-1]
    if built.returncode and f"No module named '{backend.split('.')[0]}'" in said:
        raise Inapplicable(f"{backend.split('.')[0]}, which builds it, is not installed here")
    require(built.returncode == 0, f"The wheel cannot be built: {said}")
    (archive,) = out.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())

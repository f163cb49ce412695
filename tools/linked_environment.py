"""An environment with what the running one has installed, except the packages of this repository.

Nothing is downloaded or copied: each library is a link to the running environment's. What is then installed
there is found as after `pip install` on somebody's machine, with its dependencies resolved and met.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from workspace import GROUP, ROOT, read_packages

# Variables that would let the checkout or the caller's models into the environment.
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "XLM_MODELS_PATH", "XLM_MODELS_PACKAGES", "HYDRA_FULL_ERROR")


class Environment:
    """A virtual environment in `folder`, which must not exist; `python` and `xlm` run its programs."""

    def __init__(self, folder: Path) -> None:
        venv.EnvBuilder(symlinks=True).create(folder)
        self.bin = folder / "bin"
        self.site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
        left_out = own_entries()
        for library in dict.fromkeys(sysconfig.get_path(scheme) for scheme in ("purelib", "platlib")):
            for entry in Path(library).iterdir():
                # A .pth file would bring editable installs back.
                if entry.name not in left_out and entry.suffix != ".pth" and not (self.site / entry.name).exists():
                    (self.site / entry.name).symlink_to(entry)

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`pip install` with nothing but what lies on this disk."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--isolated", "install"]
        return run(*pip, "--quiet", "--no-index", "--no-build-isolation", *arguments)

    def run(
        self, program: str, *arguments: str, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """One of its programs, in a clean environment with these `variables` added."""
        return run(str(self.bin / program), *arguments, cwd=cwd, **variables)


def own_entries() -> set[str]:
    """Names in site-packages that belong to packages of this repository, or to any other model package."""
    ours = set(read_packages(ROOT))
    entries = {"__pycache__"}
    for distribution in metadata.distributions():
        if distribution.name in ours or distribution.entry_points.select(group=GROUP):
            entries |= {file.parts[0] for file in distribution.files or []}
    return entries - {".."}


def run(*command: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with its output caught; the caller judges the exit code."""
    environ = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return subprocess.run(
        command, cwd=cwd, env=environ | variables, capture_output=True, text=True, check=False, timeout=600
    )

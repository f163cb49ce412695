"""The environment of a result besides the config: versions, git commit, source files, device, command."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from xlm.utils.choices import hydra_choices
from xlm.utils.secrets import without_secrets

PACKAGES = ("xlm-core", "torch", "lightning", "transformers", "datasets", "hydra-core", "torchmetrics", "numpy")


def git_state(directory: Path) -> dict[str, Any] | None:
    """The commit, and whether the work tree differs from it; None outside a repository or without git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        changed = bool(_git(directory, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": changed}


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def device_name(device_type: str) -> str:
    """`cuda: NVIDIA H100 …`, `cpu: 2 threads`."""
    import torch

    if device_type == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}"
    if device_type == "cpu":
        return f"cpu: {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"
    return device_type


def hardware() -> dict[str, Any]:
    """What the last bits of a result depend on: processor, its vector instructions, threads, GPUs."""
    import torch

    return {
        "cpu": _cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def code_digests(packages: Mapping[str, Path]) -> dict[str, str]:
    """Name → fingerprint of all Python files of a package's folder, so that uncommitted changes are seen too."""
    return {name: _code_digest(folder) for name, folder in packages.items()}


def _code_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder):
        # A model's folder may be a whole project, with its environment.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")) and name not in _NOT_CODE)
        for name in sorted(name for name in files if name.endswith(".py")):
            path = Path(parent, name)
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError:  # a broken link: nothing can import it
                continue
    return digest.hexdigest()[:12]


_NOT_CODE = ("node_modules", "site-packages", "tests", "venv")


def versions() -> dict[str, str]:
    """Installed versions of the packages that affect a result, including the model packages."""
    found = {name: metadata.version(name) for name in PACKAGES}
    for entry in metadata.entry_points(group="xlm.models"):
        if entry.dist is not None:
            found[entry.dist.name] = entry.dist.version
    return {"python": platform.python_version(), **found}


def config_hash(yaml_text: str) -> str:
    """A short fingerprint of a composed config."""
    return hashlib.sha256(yaml_text.encode()).hexdigest()[:12]


def run_record(config_yaml: str, seed: int, device_type: str, work_dir: Path) -> dict[str, Any]:
    """The record of one start of a job."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["xlm", *map(without_secrets, sys.argv[1:])],
        "choices": hydra_choices(),
        "seed": seed,
        "device": device_name(device_type),
        "hardware": hardware(),
        "git": git_state(work_dir),
        "config_hash": config_hash(config_yaml),
        "versions": versions(),
    }

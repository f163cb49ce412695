"""The environment of a result besides the config: versions, git commit, device, command."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

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
        "seed": seed,
        "device": device_name(device_type),
        "git": git_state(work_dir),
        "config_hash": config_hash(config_yaml),
        "versions": versions(),
    }

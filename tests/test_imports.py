"""What answers at once imports nothing heavy, and nothing does work at import time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"datasets", "lightning", "matplotlib", "pandas", "torch", "torchmetrics", "transformers"}
DOORS = [
    "xlm",
    "xlm.errors",
    "xlm.protocols",
    "xlm.external_models",
    "xlm.compose",
    "xlm.cli",
    "xlm.cli.main",
    "xlm.cli.report",
    "xlm.cli.runs",
    "xlm.reports.page",
    "xlm.reports.plain",
    "xlm.scaffold.cli",
]


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, warnings being errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def heavy_modules(module: str, folder: Path) -> set[str]:
    """Which of the heavy packages an import brings in."""
    done = python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))", folder)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", DOORS)
def test_the_doors_import_nothing_heavy(module: str, tmp_path: Path) -> None:
    assert heavy_modules(module, tmp_path) == set()


@pytest.mark.parametrize("module", [*DOORS, "xlm.harness", "xlm.datamodule"])
def test_an_import_prints_and_writes_nothing(module: str, tmp_path: Path) -> None:
    done = python(f"import {module}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.listdir(tmp_path) == []

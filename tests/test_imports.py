"""What answers at once imports nothing heavy, and nothing does work at import time."""

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
    "xlm.commands.report",
    "xlm.commands.report",
    "xlm.reports.page",
    "xlm.reports.page",
    "xlm.scaffold.cli",
]


@pytest.mark.parametrize("module", [*DOORS, "xlm.harness"])  # which imports xlm.datamodule too
def test_an_import_prints_and_writes_nothing_and_a_door_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    [modules] = done.stdout.splitlines()
    assert module in modules.split()
    assert module not in DOORS or HEAVY.isdisjoint(modules.split())
    assert os.listdir(tmp_path) == []

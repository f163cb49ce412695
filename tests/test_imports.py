"""What answers at once imports nothing heavy, and nothing does work at import time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xlm.data.rows import write_rows

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
# What a training run on one process needs nothing of; half a second to several seconds each.
NOT_FOR_TRAINING = {"datasets", "pandas", "tensorboard", "torch.distributed.checkpoint", "wandb"}


@pytest.mark.parametrize("module", [*DOORS, "xlm.commands.train"])  # which imports xlm.harness and xlm.datamodule
def test_an_import_prints_and_writes_nothing_and_a_door_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    [modules] = done.stdout.splitlines()
    assert module in modules.split()
    assert (HEAVY if module in DOORS else NOT_FOR_TRAINING).isdisjoint(modules.split())
    assert os.listdir(tmp_path) == []


def test_prepared_data_are_read_without_pandas(tmp_path: Path) -> None:
    """Arrow's own conversion to numpy imports it."""
    rows = [{"ids": [1, 2, 3], "n": 5, "text": "a"}, {"ids": [], "n": -7, "text": "b"}]
    [path] = write_rows(tmp_path, rows)
    code = (
        "import sys; from pathlib import Path; from xlm.data.rows import ArrowRows\n"
        f"found = ArrowRows([Path({path.name!r})])\n"
        "print(found.fetch([1, 0]), found.lengths('ids').tolist(), 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{rows[::-1]} [3, 0] False\n", "")

"""One batch learnt by heart through the command line: the longest check of a model, minutes on a CPU."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from xlm.testing.properties import Violation

_PROGRAM = "import sys; from xlm.cli.main import main; sys.exit(main())"


def overfit(folder: Path, *overrides: str, metric: str = "val/prediction/exact_match") -> float:
    """The last value of a metric after `xlm train debug=overfit <overrides>` on the CPU, run in a folder.

    Raises:
        Violation: the run failed, with what it said; or it has no such metric, with those that it has.
    """
    command = [sys.executable, "-c", _PROGRAM, "train", "job_name=overfit", "debug=overfit", "trainer_strategy=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *overrides], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Violation(done.stderr.strip())
    files = (folder / "runs").rglob("metrics.csv")
    rows = [row for file in files for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())]
    values = [float(row["value"]) for row in rows if row["name"] == metric]
    if not values:
        raise Violation(f"The run has no metric {metric}, but {', '.join(sorted({row['name'] for row in rows}))}.")
    return values[-1]

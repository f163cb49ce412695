"""One batch of star graphs, learnt by heart through the command line."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_overfits_one_batch_to_exact_match_one(tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("xlm"))
    run = ["train", "job_name=overfit", "experiment=star_easy_ilm", "model=xtiny_ilm", "debug=overfit"]
    # Every step shows one insertion out of the many that make an answer, so a batch takes longer than left to right.
    recipe = ["optimizer=adamw", "optimizer.lr=3e-3", "trainer.max_steps=1750"]
    options = ["trainer.val_check_interval=1750", "trainer_strategy=cpu"]
    command = [program, *run, *recipe, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with next((tmp_path / "runs").rglob("metrics.csv")).open() as file:
        found = [row["value"] for row in csv.DictReader(file) if row["name"] == "val/prediction/exact_match"]
    assert float(found[-1]) == 1.0

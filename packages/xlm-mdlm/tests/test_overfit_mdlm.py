"""One batch of star graphs, learnt by heart through the command line."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_overfits_one_batch_to_exact_match_one(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("xlm")), "train", "job_name=overfit", "experiment=star_easy_mdlm",
        "model=xtiny_mdlm", "model.dropout=0", "debug=overfit", "optimizer.lr=3e-3", "trainer.max_steps=1000",
        "trainer.val_check_interval=500", "trainer_strategy=cpu", "lr_scheduler=cosine",
        "datamodule.dataset_managers.test.lm.num_examples=64",
        "datamodule.dataset_managers.test.prediction.num_examples=64",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with next((tmp_path / "runs").rglob("metrics.csv")).open() as file:
        found = [row["val/prediction/exact_match"] for row in csv.DictReader(file)]
    assert float([value for value in found if value][-1]) == 1.0

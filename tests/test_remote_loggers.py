"""Weights & Biases and MLflow: a resumed run continues its run there; a missing package is one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xlm.errors import ConfigError
from xlm.training.remote_loggers import MLflowMetrics, WandbMetrics, forget_ids, store_id, stored_id

TRAIN = (
    "train", "experiment=star_mini", "model_type=mlm", "model=xtiny_mlm", "trainer_strategy=cpu", "job_name=x",
    "per_device_batch_size=8", "trainer.val_check_interval=2", "trainer.log_every_n_steps=2",
    "trainer.limit_val_batches=1", "datamodule.dataset_managers.train.lm.num_examples=200",
    "~datamodule.dataset_managers.val.prediction", "test_after_training=false",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(WandbMetrics, "wandb"), (MLflowMetrics, "mlflow")])
def test_a_missing_package(kind: type, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    says = rf'loggers={name} needs the package {name}, which is not installed: pip install "xlm-core\[{name}\]"\.'
    with pytest.raises(ConfigError, match=says):
        kind(save_dir=str(tmp_path))


def test_ids_stay_until_a_run_starts_from_scratch(tmp_path: Path) -> None:
    assert stored_id(tmp_path, "wandb") is None
    store_id(tmp_path, "wandb", "a1")
    store_id(tmp_path, "mlflow", "b2")
    store_id(tmp_path, "mlflow", "b3")
    assert (stored_id(tmp_path, "wandb"), stored_id(tmp_path, "mlflow")) == ("a1", "b3")
    (tmp_path / "logger_ids.json").write_text("{")  # damaged
    assert stored_id(tmp_path, "wandb") is None
    forget_ids(tmp_path)
    forget_ids(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Installs the package: hundreds of megabytes, which no other test needs.
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb>=0.19"), ("mlflow", "mlflow-skinny>=3")])
def test_a_resumed_run_continues_there(tmp_path: Path, name: str, package: str) -> None:
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), package], check=True, cwd=tmp_path
    )
    # After the environment's own packages, so that it only adds what is missing.
    code = f"import sys; sys.path.append({str(target)!r}); from xlm.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def run(*overrides: str) -> None:
        environ = {**os.environ, "WANDB_MODE": "offline", "GIT_PYTHON_REFRESH": "quiet"}
        command = [sys.executable, "-c", code, *TRAIN, f"loggers={name}", *overrides]
        subprocess.run(command, check=True, cwd=tmp_path, env=environ)

    run("trainer.max_steps=2")
    run_id = json.loads((tmp_path / "runs/x/logger_ids.json").read_text())[name]
    run("trainer.max_steps=4")
    assert json.loads((tmp_path / "runs/x/logger_ids.json").read_text())[name] == run_id
    if name == "wandb":
        starts = [path.name for path in (tmp_path / "runs/x/wandb").glob("offline-run-*")]
        assert [start.rpartition("-")[-1] for start in starts] == [run_id, run_id]
        return
    import sqlite3

    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        runs = database.execute("select run_uuid, name, status from runs").fetchall()
        steps = database.execute("select distinct step from metrics where key like 'train/%' order by step").fetchall()
    assert runs == [(run_id, "x", "FINISHED")]
    assert [step for (step,) in steps] == [2, 4]

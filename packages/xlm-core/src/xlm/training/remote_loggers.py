"""Weights & Biases and MLflow: a run keeps its id there when it is resumed."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from xlm.errors import ConfigError
from xlm.reports.files import read_mapping
from xlm.utils.files import replace_text

# The ids of a run, in its folder.
IDS = "logger_ids.json"


def _check_installed(package: str, extra: str, *alternatives: str) -> None:
    if not any(importlib.util.find_spec(name) for name in (package, *alternatives)):
        raise ConfigError(
            f"loggers={extra} needs the package {package}, which is not installed: "
            f'pip install "xlm-core[{extra}]". loggers=default writes metrics.csv and TensorBoard files.',
            key="loggers",
        )


def stored_id(save_dir: str | Path, name: str) -> str | None:
    """The id of the run in a folder at one of the services, if it has been there."""
    found = read_mapping(Path(save_dir) / IDS, []).get(name)
    return found if isinstance(found, str) else None


@rank_zero_only
def store_id(save_dir: str | Path, name: str, value: str) -> None:
    """Keep the id of a run."""
    path = Path(save_dir) / IDS
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({**read_mapping(path, []), name: value}, indent=2) + "\n")


def forget_ids(save_dir: str | Path) -> None:
    """Let a run that starts from scratch be a new one everywhere."""
    (Path(save_dir) / IDS).unlink(missing_ok=True)


@rank_zero_only
def end_other_run(id: str | None) -> None:
    """End the wandb run of an earlier run of this process, as in a sweep; otherwise the next one would continue it."""
    import wandb

    if wandb.run is not None and wandb.run.id != id:
        wandb.finish()


class WandbMetrics(WandbLogger):
    """Lightning's WandbLogger with an id that is kept in the run's folder: a resumed run continues there.

    Args:
        save_dir: the run's folder.
        id: of an existing run at Weights & Biases, instead.
        options: of WandbLogger and of `wandb.init`, such as `project`, `entity`, `group`, `tags`, `offline`.
    """

    def __init__(self, save_dir: str, id: str | None = None, **options: Any) -> None:
        _check_installed("wandb", "wandb")
        known = id or stored_id(save_dir, "wandb")
        self._folder = save_dir
        super().__init__(save_dir=save_dir, id=known or secrets.token_hex(8), **options)
        self._wandb_init.pop("anonymous", None)  # wandb warns about it, whatever its value
        end_other_run(self._id)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run at Weights & Biases, created when it is first used."""
        if self._experiment is None and self._id is not None:
            store_id(self._folder, "wandb", self._id)
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing: the composed configuration is in the run's folder."""


class MLflowMetrics(MLFlowLogger):
    """Lightning's MLFlowLogger with a run id that is kept in the run's folder: a resumed run continues there.

    Args:
        save_dir: the run's folder.
        tracking_uri: a server, a database (`sqlite:///mlflow.db`) or a folder (`file:…`); by default
            MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder.
        run_id: of an existing MLflow run, instead.
        options: of MLFlowLogger, such as `experiment_name`, `run_name`, `tags`.
    """

    def __init__(
        self, save_dir: str, tracking_uri: str | None = None, run_id: str | None = None, **options: Any
    ) -> None:
        _check_installed("mlflow", "mlflow")
        self._folder = save_dir
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        super().__init__(tracking_uri=uri, run_id=run_id or stored_id(save_dir, "mlflow"), **options)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client, after the run was created or found."""
        is_new = not self._initialized
        client = super().experiment
        if is_new and self._run_id is not None:
            store_id(self._folder, "mlflow", self._run_id)
            client.update_run(self._run_id, status="RUNNING")
        return client

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing: the composed configuration is in the run's folder."""

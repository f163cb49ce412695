"""A run of a model's experiment in small: little data, its smallest network, every file in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.external_models import ModelPackage

BATCH_SIZE = 4
NUM_EXAMPLES = 2 * BATCH_SIZE
# Smallest first: the sizes that models ship, by a word of their names (xtiny_mlm, mine_tiny).
_SIZES = ("xtiny", "tiny")
# Generated data, so that nothing has to be fetched.
_DATA = ("star_mini", "star_easy", "star")
_MANAGERS = "xlm.datamodule."


def first_experiment(experiments: Sequence[str]) -> str:
    """The experiment that is tried: on star graphs if there is one; empty if there is none."""
    for prefix in _DATA:
        for name in experiments:
            if name.startswith(prefix):
                return name
    return next(iter(experiments), "")


def without_experiment(name: str, network: str) -> list[str]:
    """What stands for the experiment of a model that ships none: core's star graphs."""
    return ["datamodule=star_easy", f"model_type={name}", f"model={network}"]


def run_overrides(package: ModelPackage, experiment: str) -> list[str]:
    """What the command line would say to run the experiment with the model's smallest network on one CPU."""
    networks = sorted(path.stem for path in (package.config_dir / "model").glob("*.yaml"))
    smallest = next((name for size in _SIZES for name in networks if size in name.split("_")), None)
    if experiment:
        chosen = [f"experiment={experiment}", *([f"model={smallest}"] if smallest else [])]
    else:
        chosen = without_experiment(package.name, smallest or package.name)
    return [*chosen, f"per_device_batch_size={BATCH_SIZE}", "global_batch_size=null", "trainer_strategy=cpu"]


def shrink(cfg: DictConfig, folder: Path) -> DictConfig:
    """The same configuration with a few examples of each data set and nothing written elsewhere."""
    with open_dict(cfg):
        cfg.paths.log_dir = str(folder / "runs")
        cfg.paths.run_dir = str(folder / "runs/check")
        cfg.paths.cache_dir = str(folder / "cache")
        cfg.loggers, cfg.callbacks = {}, {}
        cfg.compile, cfg.num_dataloader_workers, cfg.num_dataset_workers = False, 0, 0
        for named in cfg.datamodule.dataset_managers.values():
            for manager in (named or {}).values():
                _shrink_data(manager)
    return cfg


def _shrink_data(manager: Any) -> None:
    """Limit a data set, where it is one of core's or says itself how many examples it has."""
    raw = OmegaConf.to_container(manager, resolve=False)
    if isinstance(raw, dict) and (str(raw.get("_target_")).startswith(_MANAGERS) or "num_examples" in raw):
        known = raw.get("num_examples")
        manager.num_examples = min(known, NUM_EXAMPLES) if isinstance(known, int) else NUM_EXAMPLES

"""Evaluates a run on the data of another datamodule, with its own tokenizer, sizes and collators."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.compose.checks import check_collators, check_roles
from xlm.compose.load import CONFIG_MODULE, CONFIG_NAME
from xlm.compose.messages import readable_errors
from xlm.errors import ConfigError

_MANAGERS = "datamodule.dataset_managers"


def with_data_of(cfg: DictConfig, name: str, split: str, data_file: str | list[str] | None = None) -> DictConfig:
    """A copy of a run's configuration whose loaders of `split` are those of the datamodule `name`; no other split.

    Args:
        data_file: replaces the source of these data, with the same columns; None: their own.

    Raises:
        ConfigError: there is no such datamodule, it has no loader in this split, or one in a role that the model
            doesn't fill.
    """
    from hydra import compose, initialize_config_module

    choice = [f"datamodule={name}"]
    with readable_errors(overrides=choice), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        other = compose(CONFIG_NAME, overrides=[*choice, "~model", "~model_type"])
    managers = OmegaConf.select(other, f"{_MANAGERS}.{split}") or {}
    loaders = {loader: manager for loader, manager in managers.items() if manager and "_target_" in manager}
    if not loaders:
        raise ConfigError(f"datamodule '{name}' has no data in {split}. Choose another eval.split.", key="eval.data")
    known = OmegaConf.select(cfg, f"{_MANAGERS}.{split}") or {}
    own = {loader: manager._get_node("collator") for loader, manager in known.items() if manager is not None}
    changed = cfg.copy()
    with open_dict(changed):
        for key in other.keys() - changed.keys():
            changed[key] = other._get_node(key)
        changed.data_files = {"train": None, "val": None, "test": None, split: data_file}
        for loader, manager in loaders.items():
            # A model in the older style attached its collators to the loaders of its own data.
            if not changed.get("collators") and (collator := own.get(loader)) is not None:
                manager.collator = collator
        changed.datamodule.dataset_managers = {split: loaders}
        changed.post_hoc_evaluator = other.get("post_hoc_evaluator")
        if changed.get("collators"):  # otherwise the metrics are a model's own, like its collators
            changed.reported_metrics = other.reported_metrics
    check_roles(changed, str(cfg.get("model_name")), name)
    check_collators(changed, str(cfg.get("model_name")))
    return changed

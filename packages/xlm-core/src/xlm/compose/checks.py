"""What is checked of a composed configuration before anything runs: values, roles, collators, batch sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlm.compose.devices import check_divisible
from xlm.compose.values import check_values
from xlm.errors import ConfigError, MissingRoleError

_ROLE = re.compile(r"\$\{collators\.([A-Za-z0-9_]+)\}")


def check_config(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Raise the first ConfigError of a run's configuration; `choices` are Hydra's (group → member)."""
    model_type, datamodule = str(choices.get("model_type")), str(choices.get("datamodule"))
    check_values(cfg)
    check_roles(cfg, model_type, datamodule)
    check_collators(cfg, model_type)
    check_batch_sizes(cfg)


def check_roles(cfg: DictConfig, model_type: str, datamodule: str) -> None:
    """MissingRoleError if the datamodule asks for a collator role that the model type doesn't fill."""
    available = sorted(role for role, node in _plain(cfg, "collators").items() if node not in (None, "???"))
    for role in _asked_roles(_plain(cfg, "datamodule")):
        if role not in available:
            raise MissingRoleError(role, model_type=model_type, datamodule=datamodule, available=available)


def check_collators(cfg: DictConfig, model_type: str) -> None:
    """ConfigError if a dataloader was left without a collator."""
    for split, named in _plain(cfg, "datamodule.dataset_managers").items():
        for name, manager in (named if isinstance(named, dict) else {}).items():
            if isinstance(manager, dict) and manager.get("collator") == "???":
                key = f"datamodule.dataset_managers.{split}.{name}"
                raise ConfigError(
                    f"The dataloader {split}/{name} has no collator: model_type '{model_type}' attaches none "
                    f"at {key}.collator, and its dataset asks for no role.\nWithout that dataloader: ~{key}",
                    key=f"{key}.collator",
                )


def check_batch_sizes(cfg: DictConfig) -> None:
    """ConfigError if `global_batch_size` cannot be reached, as far as that is known without counting devices."""
    per_device, together = cfg.get("per_device_batch_size"), cfg.get("global_batch_size")
    if together is None:
        return
    num_nodes = OmegaConf.select(cfg, "trainer.num_nodes")
    devices = OmegaConf.select(cfg, "trainer.devices")
    known = devices if isinstance(devices, int) and devices > 0 else None
    check_divisible(together, per_device, num_nodes if isinstance(num_nodes, int) else 1, known)


def _plain(cfg: DictConfig, key: str) -> dict[str, Any]:
    """The mapping at `key` as plain dicts, interpolations as their text; empty if there is none."""
    node = OmegaConf.select(cfg, key, throw_on_missing=False)
    plain = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else None
    return {str(name): value for name, value in plain.items()} if isinstance(plain, dict) else {}


def _asked_roles(node: Any) -> Iterator[str]:
    """Each role in a plain tree that somewhere says `${collators.<role>}`."""
    if isinstance(node, str):
        yield from _ROLE.findall(node)
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _asked_roles(child)

"""Refuses a network of another model family: a loss and a predictor only work with networks that they know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlm.errors import ConfigError, did_you_mean
from xlm.external_models import active_models
from xlm.external_models.package import ModelPackage


def check_network(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """ConfigError if `model=` is the network of one model package, and `model_type=` belongs to another one.

    A network may be shared: by a model package without networks of its own, one whose loss or predictor comes from
    the network's package, and one that names the network in its configs. Networks from elsewhere are not checked.
    """
    member, model_type = str(choices.get("model")), str(choices.get("model_type"))
    network, losses = _owner("model", member), _owner("model_type", model_type)
    if network is None or losses is None or network.package_dir == losses.package_dir:
        return
    own = sorted(path.stem for path in (losses.config_dir / "model").glob("*.yaml"))
    if not own or _package(cfg, "model") != network.import_name:
        return
    if network.import_name in (_package(cfg, "loss"), _package(cfg, "predictor")) or _names(losses, member):
        return
    similar = [name for name in own if name == re.sub(rf"{re.escape(network.name)}$", losses.name, member)]
    raise ConfigError(
        f"model={member} is a network of '{network.name}', and model_type '{model_type}' cannot use it. "
        f"{did_you_mean(similar)}".rstrip()
        + f"\nNetworks of '{losses.name}': {', '.join(own)}",
        key="model",
    )


def _owner(group: str, member: str) -> ModelPackage | None:
    """The active model package with that file in its configs."""
    return next(
        (model for model in active_models().values() if (model.config_dir / group / f"{member}.yaml").is_file()), None
    )


def _package(cfg: DictConfig, key: str) -> str:
    """The top-level package of a node's target; empty without one."""
    return str(OmegaConf.select(cfg, f"{key}._target_", throw_on_missing=False) or "").partition(".")[0]


def _names(model: ModelPackage, member: str) -> bool:
    """Whether a config of a model package mentions a network by name."""
    name = re.compile(rf"(?<![\w-]){re.escape(member)}(?![\w-])")
    return any(name.search(path.read_text("utf-8", errors="replace")) for path in model.config_dir.rglob("*.yaml"))

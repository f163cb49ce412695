"""Composes a run's configuration in this process, as the command line would."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.compose.checks import check_config
from xlm.compose.fit_to_data import fitted_to_data
from xlm.compose.messages import readable_errors
from xlm.compose.naming import checked_job_name
from xlm.compose.overrides import with_optional_sections
from xlm.compose.resolvers import late_values_as_text, register_resolvers
from xlm.errors import ConfigError
from xlm.external_models import activate, discover

CONFIG_MODULE = "xlm.configs.lightning_train"
CONFIG_NAME = "config"


def load_config(
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> DictConfig:
    """The configuration of `xlm <overrides>`, with its job_name set; raises only XLMError.

    Models are discovered from `cwd` with `environ` (by default of this process) and stay active.
    """
    from hydra import compose, initialize_config_module

    found = discover(os.environ if environ is None else environ, cwd or Path.cwd())
    found.raise_errors()
    activate(found.models, folders=found.folders)
    register_resolvers()
    overrides = with_optional_sections(overrides)
    with readable_errors(found, overrides), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        composed = compose(CONFIG_NAME, overrides=list(overrides), return_hydra_config=True)
        job_name, choices = checked_job_name(composed.job_name), dict(composed.hydra.runtime.choices)
        with open_dict(composed):
            del composed["hydra"]
        composed.job_name = job_name
        if check:
            composed = fitted_to_data(composed, overrides, _composed)
            check_config(composed, choices)
    return composed


def composed_again(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with what is chosen to fit a person's own data; see `fitted_to_data`."""
    return fitted_to_data(cfg, overrides, _composed)


def _composed(overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    # Within a job or a composition, Hydra is initialized already.
    here = GlobalHydra.instance().is_initialized()
    with nullcontext() if here else initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return compose(CONFIG_NAME, overrides=list(overrides))


def core_file(name: str) -> Any:
    """One of core's own configuration files."""
    path = importlib.resources.files(CONFIG_MODULE) / name
    if not path.is_file():
        raise ConfigError(f"Could not find '{name.removesuffix('.yaml')}'", key=name.partition("/")[0])
    return OmegaConf.create(path.read_text(encoding="utf-8"))


def without_reporting(cfg: DictConfig) -> DictConfig:
    """A copy without metrics, logged predictions, evaluators, callbacks and loggers."""
    bare = cfg.copy()
    with open_dict(bare):
        for key in ("reported_metrics", "diagnostic_metrics", "callbacks", "loggers"):
            bare[key] = {}
        for key in ("log_predictions", "post_hoc_evaluator"):
            bare[key] = None
    return bare


def to_yaml(cfg: DictConfig, resolve: bool = False) -> str:
    """The configuration as YAML; values that need live objects stay unresolved."""
    with readable_errors(), late_values_as_text():
        return OmegaConf.to_yaml(cfg, resolve=resolve)

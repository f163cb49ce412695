"""The configuration stored with a checkpoint, for jobs that name a checkpoint and no experiment."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.compose.checks import check_config
from xlm.compose.load import CONFIG_MODULE, core_file
from xlm.compose.naming import checked_job_name
from xlm.errors import ConfigError, did_you_mean, nearest_names, of_option
from xlm.inference.folders import find_relative_paths, write_beside
from xlm.inference.sources import check_trusted, find_source
from xlm.schemas import CHECKPOINT_SECTIONS, PATH_KEYS, SECTIONS_OF_JOBS, Checkpoint
from xlm.utils.annotations import read_options
from xlm.utils.imports import get_function
from xlm.utils.instantiate import parameter_names

_STRATEGY = "trainer_strategy"
# Jobs that score predictions with the configuration's judge.
_JUDGE = ("eval", "sweep_sampler")
# Jobs whose output contains the configuration, in which paths of this machine have no meaning.
_EXPORTS = ("extract_checkpoint", "push_to_hub")


def stored_config(overrides: Sequence[str], job: str, option: str | None = None) -> DictConfig:
    """The configuration that a checkpoint was trained with, with overrides of its values.

    Paths and devices are not taken from the checkpoint: the job uses the paths of this machine and one device, unless
    `trainer_strategy=…` is given. Errors about the checkpoint name the `option`, by default that of the job.

    Raises:
        CheckpointError: the checkpoint doesn't exist or has no configuration.
        ConfigError: an override chooses a group; NotAllowedError: the configuration names more than it may.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    section = SECTIONS_OF_JOBS[job].section
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given: dict[str, Any] = {override.key_or_group: override.value() for override in parsed}
    strategy = str(given.get(_STRATEGY, "auto"))
    names = (*PATH_KEYS, "revision", "trust", "trust_remote_code")
    said = {name: given[key] for name in names if (key := f"{section}.{name}") in given}
    options = read_options(Checkpoint, said, section)
    if not (options.checkpoint_path or options.ckpt_path):
        raise ConfigError(f"{section}.checkpoint_path is empty. Give a checkpoint.", key=f"{section}.checkpoint_path")
    with of_option(option or f"{section}.{PATH_KEYS[0] if options.checkpoint_path else PATH_KEYS[1]}"):
        source = find_source(str(options.checkpoint_path or options.ckpt_path), revision=options.revision)
    trust = options.trust or options.trust_remote_code
    how = "trust=true" if option else f"{section}.trust=true"
    cfg = check_trusted(source, trust, how, runs_judges=job in _JUDGE).config
    add_newer_keys(cfg)
    with open_dict(cfg):
        cfg.paths = core_file("paths/default.yaml")
        cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.num_nodes = "auto", 1, 1
        cfg.merge_with(core_file(f"{_STRATEGY}/{strategy}.yaml"))
        for name in CHECKPOINT_SECTIONS:
            cfg.pop(name, None)
    if job not in _EXPORTS and not source.is_remote:
        find_relative_paths(cfg, source.path)
    values = [override for override in parsed if override.key_or_group != _STRATEGY]
    for override in values:
        if override.key_or_group.split("@")[0] in _groups():
            name = str(override.input_line).partition("=")[2]
            is_data = job == "eval" and override.key_or_group == "datamodule"
            instead = f"To evaluate on other data, give eval.data={name}." if is_data else ""
            raise ConfigError(
                f"'{override.input_line}' chooses a part of a configuration, but this job uses the checkpoint's own. "
                + (instead or "To compose another one, give experiment=…"),
                key=override.key_or_group,
            )
        if not (override.is_add() or override.is_force_add()):
            _check_key(cfg, override.key_or_group, "A prompt with = needs --prompt." if job == "generate" else "")
    OmegaConf.set_struct(cfg, True)
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    OmegaConf.set_struct(cfg, False)
    # Choose the file only once: a running training may write another best checkpoint in the meantime.
    for key in PATH_KEYS:
        if cfg[section].get(key):
            cfg[section][key] = str(source.path)
    hub_id = str(options.checkpoint_path or options.ckpt_path) if source.is_remote else None
    write_beside(cfg, source.path, given, hub_id)
    cfg.job_name = checked_job_name(cfg.job_name)
    check_config(cfg, {"model_type": cfg.get("model_name"), "datamodule": "of the checkpoint"})
    return cfg


def add_newer_keys(cfg: DictConfig) -> None:
    """Give a stored configuration the keys that are newer than it, with their defaults."""
    with open_dict(cfg):
        for key in core_file("config.yaml").keys() - cfg.keys() - {"defaults", "hydra"}:
            cfg[key] = core_file("config.yaml")._get_node(key)


def _check_key(cfg: DictConfig, key: str, otherwise: str) -> None:
    """ConfigError, with the nearest name or another hint, for a key that doesn't exist."""
    above, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, above) if above else cfg
    if OmegaConf.is_list(parent):
        return
    names = [str(known) for known in parent] if isinstance(parent, DictConfig) else []
    if name in names:
        return
    arguments = _arguments(parent)
    if name in arguments:  # the checkpoint is older than this option
        with open_dict(parent):
            parent[name] = None
        return
    hint = did_you_mean([f"{above}.{near}".lstrip(".") for near in nearest_names(name, [*names, *arguments], 1)])
    raise ConfigError(f"The checkpoint's configuration has no key '{key}'. {hint or otherwise}".rstrip(), key=key)


def _arguments(node: Any) -> list[str]:
    """The arguments of the class that a node configures; none if it configures none."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    return parameter_names(get_function(str(target))) if target else []


def _groups() -> set[str]:
    return {entry.name for entry in importlib.resources.files(CONFIG_MODULE).iterdir() if entry.is_dir()}

"""Checks a composed configuration before anything runs: values, roles, collators, batch sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from xlm.compose.devices import check_divisible
from xlm.compose.families import check_network
from xlm.errors import ConfigError, MissingRoleError
from xlm.schemas import SECTIONS_OF_JOBS, GlobalFlags, MixtureSection, Options, Root, Sweep, Trace, TrainerSection
from xlm.utils.annotations import checked, display_value, options_in, read_options
from xlm.utils.rank_zero import RankedLogger

Schema = TypeVar("Schema", bound=Options)
log = RankedLogger(__name__, rank_zero_only=True)

# Options at the root that a training set reads, and where its file names them.
_READ_BY_TRAINING_SETS = {
    "batching": "its dataloader_kwargs",
    "max_tokens_per_batch": "its dataloader_kwargs",
    "shift_blocks": "that set",
    "streaming": "that set",
}
_SECTIONS_OF_DATA = ("columns", "data_files", "held_out", "reading")


def check_values(cfg: DictConfig) -> None:
    """ConfigError for the first value outside its type or choices, among all options that the job reads."""
    _check_present(cfg, Root)
    for name, schema_of_section in (("trainer", TrainerSection), ("mixture", MixtureSection)):
        section = cfg.get(name)
        if isinstance(section, DictConfig):
            _check_present(section, schema_of_section)
    _check_flags(cfg)
    for section in _SECTIONS_OF_DATA:
        _check_mapping(cfg, section)
    trace_options(cfg)
    schema = SECTIONS_OF_JOBS.get(str(cfg.get("job_type")))
    if schema is Sweep:
        read_part(cfg, Sweep)
    elif schema is not None:
        read_section(cfg, schema)


def read_section(cfg: DictConfig, schema: type[Schema]) -> Schema:
    """The options of a job; ConfigError for an unknown option or a value outside its type."""
    section = schema.section
    return read_options(schema, _given(cfg, section), section)


def read_part(cfg: DictConfig, schema: type[Schema]) -> tuple[Schema, dict[str, Any]]:
    """The options of a job, and the other keys of its section."""
    section = schema.section
    given, known = _given(cfg, section), options_in(schema)
    own = read_options(schema, {name: value for name, value in given.items() if name in known}, section)
    return own, {name: value for name, value in given.items() if name not in known}


def trace_options(cfg: DictConfig) -> Trace | None:
    """The options of `trace`; None when it is off."""
    asked = checked("trace", plain(cfg.get("trace")), options_in(Root)["trace"].annotation)
    if isinstance(asked, dict):
        return read_section(cfg, Trace)
    return Trace() if asked else None


def _check_flags(cfg: DictConfig) -> None:
    """Check core's flags; a model may have its own, which are not checked."""
    flags = _given(cfg, GlobalFlags.section)
    known = options_in(GlobalFlags)
    for name in flags.keys() & known.keys():
        checked(f"{GlobalFlags.section}.{name}", flags[name], known[name].annotation)


def _check_present(node: DictConfig, schema: type[Options]) -> None:
    """Check the options of a schema that are present; other keys are ignored."""
    section = schema.section
    for option in options_in(schema).values():
        if option.name not in node:
            continue
        if OmegaConf.is_missing(node, option.name) or (section and OmegaConf.is_interpolation(node, option.name)):
            continue  # the trainer's are resolved later, from the devices
        value = plain(node[option.name])
        taken = checked(f"{section}.{option.name}".lstrip("."), value, option.annotation)
        if isinstance(taken, str) and not isinstance(value, str):
            node[option.name] = taken  # digits meant as text


def _given(cfg: DictConfig, section: str) -> dict[str, Any]:
    """A section as plain values; ConfigError if it is not a mapping."""
    node = _check_mapping(cfg, section)
    if node is None:
        return {}
    options = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    assert isinstance(options, dict)
    return {str(name): value for name, value in options.items()}


def _check_mapping(cfg: DictConfig, section: str) -> DictConfig | None:
    node = cfg.get(section)
    if node is None or isinstance(node, DictConfig):
        return node
    raise ConfigError(
        f"{section} is {display_value(plain(node))}, and must be a mapping: {section}.<option>=…", key=section
    )


def plain(value: Any) -> Any:
    """A value of a configuration without the classes of OmegaConf."""
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value


_ROLE = re.compile(r"\$\{collators\.([A-Za-z0-9_]+)\}")


_TEXT_ROLES = {"lm", "unconditional", "infill"}


def check_config(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Raise the first ConfigError of a run's configuration; `choices` are Hydra's (group → member)."""
    model_type, datamodule = str(choices.get("model_type")), str(choices.get("datamodule"))
    leave_out_loaders(cfg, model_type)
    check_values(cfg)
    check_network(cfg, choices)
    check_roles(cfg, model_type, datamodule)
    check_collators(cfg, model_type)
    check_batch_sizes(cfg)
    _check_read_by_training_sets(cfg)


def leave_out_loaders(cfg: DictConfig, model_type: str) -> None:
    """Remove evaluation loaders without a data set (`~datasets@…test.lm`), and those that an older model doesn't know.

    A model in the older style fills no role and attaches collators to loaders itself. Core's texts have more loaders
    than it knows; those without a collator are removed from evaluation, and logged. A model that attaches none, or
    none to a training loader, is left as it is for `check_roles`.
    """
    managers = {
        (split, name): manager
        for split, named in _plain(cfg, "datamodule.dataset_managers").items()
        for name, manager in (named if isinstance(named, dict) else {}).items()
        if isinstance(manager, dict)
    }
    in_roles = [place for place, manager in managers.items() if _ROLE.search(str(manager.get("collator")))]
    without_data = [(split, name) for split, name in in_roles if split != "train" and len(managers[split, name]) == 1]
    asked = {place: set(_ROLE.findall(managers[place]["collator"])) for place in in_roles if place not in without_data}
    unknown = [place for place, roles in asked.items() if roles <= _TEXT_ROLES]
    if _plain(cfg, "collators") or len(in_roles) == len(managers) or any(split == "train" for split, _ in unknown):
        unknown = []
    for split, name in (*without_data, *unknown):
        with open_dict(cfg.datamodule.dataset_managers[split]) as named:
            del named[name]
    if unknown:
        places = ", ".join("/".join(place) for place in unknown)
        log.warning(f"Left out, as model_type '{model_type}' attaches no collator to them: {places}.")


def check_roles(cfg: DictConfig, model_type: str, datamodule: str) -> None:
    """MissingRoleError if the datamodule needs a collator role that the model type doesn't have."""
    available = sorted(role for role, node in _plain(cfg, "collators").items() if node not in (None, "???"))
    for role in _asked_roles(_plain(cfg, "datamodule")):
        if role not in available:
            raise MissingRoleError(role, model_type=model_type, datamodule=datamodule, available=available)


def check_collators(cfg: DictConfig, model_type: str) -> None:
    """ConfigError if a dataloader has no collator."""
    for split, named in _plain(cfg, "datamodule.dataset_managers").items():
        for name, manager in (named if isinstance(named, dict) else {}).items():
            if isinstance(manager, dict) and manager.get("collator") == "???":
                key = f"datamodule.dataset_managers.{split}.{name}"
                raise ConfigError(
                    f"The dataloader {split}/{name} has no collator: model_type '{model_type}' does not set "
                    f"{key}.collator, and its dataset does not name a role.\nTo remove that dataloader: ~{key}",
                    key=f"{key}.collator",
                )


def check_batch_sizes(cfg: DictConfig) -> None:
    """ConfigError if `global_batch_size` cannot be reached, as far as known without counting devices."""
    per_device, together = cfg.get("per_device_batch_size"), cfg.get("global_batch_size")
    if cfg.get("max_tokens_per_batch") is not None:
        _check_token_budget(cfg)
    if together is None:
        return
    num_nodes = OmegaConf.select(cfg, "trainer.num_nodes")
    devices = OmegaConf.select(cfg, "trainer.devices")
    known = devices if isinstance(devices, int) and devices > 0 else None
    check_divisible(together, per_device, num_nodes if isinstance(num_nodes, int) else 1, known)


def _check_token_budget(cfg: DictConfig) -> None:
    if cfg.get("batching") not in ("buckets", "packed"):
        raise ConfigError("max_tokens_per_batch needs batching=buckets or batching=packed.", key="max_tokens_per_batch")
    if cfg.get("global_batch_size") is not None:
        raise ConfigError(
            "max_tokens_per_batch and global_batch_size contradict each other: batches have different numbers of "
            "rows. Set trainer.accumulate_grad_batches instead of global_batch_size.",
            key="max_tokens_per_batch",
        )


def _check_read_by_training_sets(cfg: DictConfig) -> None:
    """ConfigError for an option of training data that no training set of this datamodule reads."""
    read = str(_plain(cfg, "datamodule.dataset_managers.train"))
    if read == "{}":  # not a datamodule of ours
        return
    for name, place in _READ_BY_TRAINING_SETS.items():
        if cfg.get(name) and not re.search(rf"\b{name}\b", read):
            raise ConfigError(
                f"{name}={cfg.get(name)} has no effect: no training set of this datamodule reads it. "
                f"Add {name}: ${{oc.select:{name},null}} to {place}.",
                key=name,
            )


def _plain(cfg: DictConfig, key: str) -> dict[str, Any]:
    """The mapping at `key` as plain dicts, with unresolved interpolations; empty if there is none."""
    node = OmegaConf.select(cfg, key, throw_on_missing=False)
    plain = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else None
    return {str(name): value for name, value in plain.items()} if isinstance(plain, dict) else {}


def _asked_roles(node: Any) -> Iterator[str]:
    """All roles that a plain tree refers to as `${collators.<role>}`."""
    if isinstance(node, str):
        yield from _ROLE.findall(node)
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _asked_roles(child)

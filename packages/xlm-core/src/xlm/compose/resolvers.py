"""The functions that YAML may call as `${name:…}`; registering them again changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf

from xlm.compose import devices
from xlm.compose.arithmetic import evaluate
from xlm.compose.naming import name_from_hydra
from xlm.errors import ConfigError
from xlm.utils.components import get_component, has_component


def register_resolvers() -> None:
    """Make every resolver known to OmegaConf, in place of any of the same name."""
    for name, resolver in _RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


@contextmanager
def late_values_as_text() -> Iterator[None]:
    """For showing a configuration: what depends on live objects that don't exist yet stays as it is written."""
    token = _SHOWN_ONLY.set(True)
    try:
        yield
    finally:
        _SHOWN_ONLY.reset(token)


_SHOWN_ONLY: ContextVar[bool] = ContextVar("_SHOWN_ONLY", default=False)


def _eval(*parts: Any) -> Any:
    # A comma separates arguments in OmegaConf's grammar, so that min(1, 2) arrives in two pieces.
    text = ",".join(str(part) for part in parts)
    return f"${{eval:{text}}}" if _SHOWN_ONLY.get() and "${" in text else evaluate(text)


def _div_up(dividend: int, divisor: int) -> int:
    if divisor == 0:
        raise ConfigError(f"div_up: {dividend} cannot be divided by 0.")
    return -(-dividend // divisor)


def _replace_str(text: str, old: str, new: str = "") -> str:
    return str(text).replace(str(old), "" if new is None else str(new))


def _dict_to_list(mapping: DictConfig | None) -> ListConfig:
    """The values, in order; entries that are null are left out."""
    values = () if mapping is None else mapping.values()
    return ListConfig([value for value in values if value is not None])


def _find_grad_accum(
    global_batch_size: int | None, per_device_batch_size: int, device_choice: Any, num_nodes: int, *, _parent_: Any
) -> int:
    accelerator = _parent_.get("accelerator") if isinstance(_parent_, DictConfig) else None
    return devices.find_grad_accum(global_batch_size, per_device_batch_size, device_choice, num_nodes, accelerator)


def _if_else(condition: Any, if_true: Any, if_false: Any) -> Any:
    if isinstance(condition, str):
        condition = condition.strip().lower() not in ("", "0", "false", "no", "none", "null", "off")
    return if_true if condition else if_false


def _default_job_name(*, _root_: Container) -> str:
    """From Hydra's record of choices: in the tree while it is there, else of the job that runs."""
    from hydra.core.hydra_config import HydraConfig

    together = OmegaConf.select(_root_, "global_batch_size", throw_on_missing=False)
    composed = OmegaConf.select(_root_, "hydra", throw_on_missing=False)
    if isinstance(composed, DictConfig):
        return name_from_hydra(composed, together)
    if HydraConfig.initialized():
        return name_from_hydra(HydraConfig.get(), together)
    raise ConfigError("job_name has no default without Hydra's record of choices; set job_name=…", key="job_name")


def _component_reader(name: str) -> Callable[[str], Any]:
    def read(attribute: str) -> Any:
        if _SHOWN_ONLY.get() and not has_component(name):
            return f"${{{name}:{attribute}}}"
        found = get_component(name)
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ConfigError(f"${{{name}:{attribute}}}: the {name} has no attribute '{part}'.", key=attribute)
            found = getattr(found, part)
        return found

    return read


def _global_component(name: str) -> Any:
    if _SHOWN_ONLY.get() and not has_component(name):
        return f"${{global_components:{name}}}"
    return get_component(name)


_RESOLVERS: dict[str, Callable[..., Any]] = {
    "cwd": os.getcwd,
    "device_count": devices.num_accelerators,
    "default_precision": devices.default_precision,
    "default_job_name": _default_job_name,
    "eval": _eval,
    "div_up": _div_up,
    "num_cpus": devices.num_cpus,
    "replace_str": _replace_str,
    "dict_to_list": _dict_to_list,
    "find_grad_accum": _find_grad_accum,
    "if_else": _if_else,
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "min_int": lambda *values: int(min(values)),
    "max_int": lambda *values: int(max(values)),
    "tokenizer": _component_reader("tokenizer"),
    "datamodule": _component_reader("datamodule"),
    "lightning_module": _component_reader("lightning_module"),
    "global_components": _global_component,
}

"""The functions that YAML can call as `${name:…}`, with arithmetic; registering them twice is harmless."""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

from xlm.compose import devices
from xlm.compose.naming import TRAINS, name_from_hydra, sweep_name_from_hydra
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.utils.annotations import display_value
from xlm.utils.instantiate import get_component, has_component

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "max": max,
    "min": min,
    "round": round,
}
_MAX_LENGTH = 1000
_MAX_BITS = 4096
_MAX_TEXT = 2**20


def evaluate(text: str) -> int | float | bool:
    """The value of an arithmetic expression; ConfigError for anything else and for numbers that are too large."""
    if len(text) > _MAX_LENGTH:
        raise ConfigError(f"eval: an expression of {len(text)} characters is too long.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = _value(tree.body)
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(f"eval: '{text}' cannot be computed: {error}") from error
    if not isinstance(value, int | float):
        raise ConfigError(f"eval: '{text}' is not a number.")
    return value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _binary(op, _value(left), _value(right))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.Compare(left, ops, comparators) if all(type(op) in _COMPARE for op in ops):
            values = [_value(left), *map(_value, comparators)]
            pairs = zip(ops, values, values[1:], strict=False)
            return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)
        case ast.IfExp(test, body, orelse):
            return _value(body) if _value(test) else _value(orelse)
        case ast.Call(ast.Name(name), args, []) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_value, args))
    raise ValueError("only numbers, + - * / // % **, comparisons and " + ", ".join(sorted(_FUNCTIONS)))


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    # 9**9**9 would never finish.
    is_power = isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int)
    if is_power and abs(right) * max(left.bit_length(), 1) > _MAX_BITS:
        raise ValueError("the power is too large")
    value = _BINARY[type(op)](left, right)
    if isinstance(value, complex):
        raise ValueError("the value is not a real number")
    return value


def register_resolvers(swept: Collection[str] = ()) -> None:
    """Register all resolvers in OmegaConf, replacing any of the same name; `swept` are the keys that a sweep varies."""
    resolvers: dict[str, Callable[..., Any]] = {
        **_RESOLVERS, "default_job_name": _DefaultJobName(swept), "swept_settings": _SweptSettings(swept)
    }  # fmt: skip
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


@contextmanager
def late_values_as_text() -> Iterator[None]:
    """Leave values that depend on live objects unresolved, to show a configuration before they exist."""
    token = _SHOWN_ONLY.set(True)
    try:
        yield
    finally:
        _SHOWN_ONLY.reset(token)


_SHOWN_ONLY: ContextVar[bool] = ContextVar("_SHOWN_ONLY", default=False)


def _eval(*parts: Any) -> Any:
    # In OmegaConf's grammar a comma separates arguments, so min(1, 2) arrives in two parts.
    text = ",".join(str(part) for part in parts)
    return f"${{eval:{text}}}" if _SHOWN_ONLY.get() and "${" in text else evaluate(text)


def _div_up(dividend: int, divisor: int) -> int:
    if divisor == 0:
        raise ConfigError(f"div_up: {dividend} cannot be divided by 0.")
    return -(-dividend // divisor)


def _replace_str(text: str, old: str, new: str = "") -> str:
    text, old, new = str(text), str(old), "" if new is None else str(new)
    if len(text) + text.count(old) * len(new) > _MAX_TEXT:
        raise ConfigError(f"replace_str: the text would have more than {_MAX_TEXT:,} characters.")
    return text.replace(old, new)


def _dict_to_list(mapping: DictConfig | None) -> ListConfig:
    """The values in order, without null entries."""
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


def _select(key: str, *default: Any, _parent_: Container) -> Any:
    """OmegaConf's own `oc.select`, but an `input_block_size` of null (texts have no prompt) counts as missing.

    Published models write `${oc.select:input_block_size,0}` for the length of a prompt, if there is one.
    """
    found = oc.select(key, *default, _parent_=_parent_)
    return default[0] if found is None and key == "input_block_size" and default else found


class _DefaultJobName:
    """The default name from Hydra's choices, in the tree if they are there, else of the running job."""

    def __init__(self, swept: Collection[str]) -> None:
        self.swept = tuple(swept)

    def __call__(self, *, _root_: Container) -> str:
        together = OmegaConf.select(_root_, "global_batch_size", throw_on_missing=False)
        return name_from_hydra(_hydra_of(_root_), together, self.swept)


class _SweptSettings:
    """What a sweep varies, as the name of one of its runs."""

    def __init__(self, swept: Collection[str]) -> None:
        self.swept = tuple(swept)

    def __call__(self, *, _root_: Container) -> str:
        job = OmegaConf.select(_root_, "job_type", throw_on_missing=False)
        return sweep_name_from_hydra(_hydra_of(_root_), self.swept, trains=job in TRAINS)


def _hydra_of(root: Container) -> Any:
    from hydra.core.hydra_config import HydraConfig

    composed = OmegaConf.select(root, "hydra", throw_on_missing=False)
    if isinstance(composed, DictConfig):
        return composed
    if HydraConfig.initialized():
        return HydraConfig.get()
    raise ConfigError("job_name has no default without Hydra's choices. Set job_name=…", key="job_name")


def _level(name: str, *, _root_: Container) -> Any:
    """The value of this name in `task.levels` at the chosen difficulty."""
    levels, chosen = OmegaConf.select(_root_, "task.levels"), OmegaConf.select(_root_, "difficulty")
    if levels is None or chosen not in levels:
        names = [str(level) for level in levels or ()]
        hint = did_you_mean(nearest_names(str(chosen), names, 1))
        raise ConfigError(
            f"difficulty is {display_value(chosen)}, and must be one of: {', '.join(names) or 'none'}. {hint}".rstrip(),
            key="difficulty",
        )
    return levels[chosen][name]


class _ComponentReader:
    """Reads an attribute of a live component; a class, so that launchers can send it to another process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, attribute: str, multiple: int = 1) -> Any:
        arguments = attribute if multiple == 1 else f"{attribute},{multiple}"
        if _SHOWN_ONLY.get() and not has_component(self.name):
            return f"${{{self.name}:{arguments}}}"
        found = get_component(self.name)
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ConfigError(
                    f"${{{self.name}:{attribute}}}: the {self.name} has no attribute '{part}'.", key=attribute
                )
            found = getattr(found, part)
        if multiple == 1:
            return found
        if not isinstance(found, int) or not isinstance(multiple, int) or multiple < 1:
            raise ConfigError(
                f"${{{self.name}:{arguments}}}: only whole numbers are rounded up, to a multiple of 1 or more."
            )
        return -(-found // multiple) * multiple


def _global_component(name: str) -> Any:
    if _SHOWN_ONLY.get() and not has_component(name):
        return f"${{global_components:{name}}}"
    return get_component(name)


_RESOLVERS: dict[str, Callable[..., Any]] = {
    "cwd": os.getcwd,
    "device_count": devices.num_accelerators,
    "default_precision": devices.default_precision,
    "eval": _eval,
    "div_up": _div_up,
    "num_cpus": devices.num_cpus,
    "replace_str": _replace_str,
    "dict_to_list": _dict_to_list,
    "find_grad_accum": _find_grad_accum,
    "if_else": _if_else,
    "oc.select": _select,
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "min_int": lambda *values: int(min(values)),
    "max_int": lambda *values: int(max(values)),
    "level": _level,
    "tokenizer": _ComponentReader("tokenizer"),
    "datamodule": _ComponentReader("datamodule"),
    "lightning_module": _ComponentReader("lightning_module"),
    "global_components": _global_component,
}

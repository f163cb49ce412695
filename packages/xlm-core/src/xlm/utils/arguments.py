"""Compares values as YAML gives them with the annotations of the function that is to take them."""

from __future__ import annotations

import collections.abc
import inspect
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlm.errors import ConfigError, did_you_mean, nearest_names

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
    type(None): "null",
}
_LISTS = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, list, tuple, set, frozenset)
_MAPPINGS = (collections.abc.Mapping, collections.abc.MutableMapping, dict)


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], key: str, strict: bool = True) -> None:
    """Raise a ConfigError for the first argument that is of another type than `function` says that it takes.

    Only plain values are looked at (text, numbers, lists, …; no objects), and only against annotations that can be
    read. NaN is no number that anybody means.

    Args:
        function: a class or a function.
        arguments: by name.
        key: of the configuration, above the arguments' names.
        strict: refuse 3.0 where a whole number is needed.
    """
    parameters: dict[str, tuple[inspect.Parameter, dict[str, Any]]] = {}
    for parameter, scope in _parameters(function):
        parameters.setdefault(parameter.name, (parameter, scope))
    for name, value in arguments.items():
        if name not in parameters or not _is_plain(value):
            continue
        parameter, scope = parameters[name]
        kind = _evaluated(parameter.annotation, scope)
        if value is None and parameter.default is None:
            continue
        if not _fits(value, kind, strict):
            path = f"{key}.{name}" if key else name
            raise ConfigError(f"{path} is {_shown(value)}, and must be {_described(kind, value)}", key=path)


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a function or a class takes, those of base classes that it passes on included."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return list(dict.fromkeys(p.name for p, _ in _parameters(function) if p.kind not in variable))


def promises_types(function: Callable[..., Any]) -> bool:
    """Whether the package of a function says by a file `py.typed` (PEP 561) that its annotations are right."""
    package = sys.modules.get(str(getattr(function, "__module__", "")).partition(".")[0])
    file = getattr(package, "__file__", None)
    return file is not None and (Path(file).parent / "py.typed").is_file()


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[inspect.Parameter, dict[str, Any]]]:
    """Parameters with the names that their annotations are written in.

    What an `__init__` takes as `**kwargs`, the next class takes.
    """
    makers = [function]
    if inspect.isclass(function):
        makers = [base.__dict__["__init__"] for base in function.__mro__ if "__init__" in base.__dict__]
    for made in makers:
        made = inspect.unwrap(made)
        try:
            parameters = list(inspect.signature(made).parameters.values())
        except (TypeError, ValueError):
            return  # of C, without a signature
        own = parameters[1:] if inspect.isclass(function) else parameters
        yield from ((parameter, getattr(made, "__globals__", {})) for parameter in own)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own):
            return


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    """The type behind an annotation; Any for none, and for one that only a type checker can read."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, scope)
    except Exception:  # noqa: BLE001 - names that are imported for a type checker alone, and whatever they do
        return Any


def _is_plain(value: Any) -> bool:
    if OmegaConf.is_config(value):
        return not (OmegaConf.is_dict(value) and "_target_" in value)  # an object, later
    return value is None or isinstance(value, str | int | float | bool | list | dict)


def _items(mapping: Any) -> Iterator[Any]:
    """The values of a mapping that are there; Hydra complains of the others."""
    for name in mapping:
        try:
            yield mapping[name]
        except OmegaConfBaseException:
            continue


def _fits(value: Any, kind: Any, strict: bool) -> bool:
    """Whether a value can be of a type; True where that cannot be told, and for objects."""
    if not _is_plain(value):
        return True
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part, strict) for part in get_args(kind))
    if origin is Annotated:
        return _fits(value, get_args(kind)[0], strict)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if kind is None or kind is type(None):
        return value is None
    base = origin or kind
    if not inspect.isclass(base) or base in (Any, object):
        return True  # type variables, NewType, shapes of tensors
    if value is None:
        return False
    if base in _LISTS:
        return _fits_list(value, base, get_args(kind), strict)
    if base in _MAPPINGS:
        if not (isinstance(value, dict) or OmegaConf.is_dict(value)):
            return False
        return len(get_args(kind)) < 2 or all(_fits(item, get_args(kind)[1], strict) for item in _items(value))
    return _fits_class(value, base, strict)


def _fits_list(value: Any, base: Any, parts: tuple[Any, ...], strict: bool) -> bool:
    if not (isinstance(value, list | tuple) or OmegaConf.is_list(value)):
        return isinstance(value, str) and base is collections.abc.Iterable
    if not parts:
        return True
    if base is tuple and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(_fits(v, p, strict) for v, p in zip(value, parts, strict=True))
    return all(_fits(item, parts[0], strict) for item in value)


def _fits_class(value: Any, base: type, strict: bool) -> bool:
    """Whether a plain value can be of a class; text can name anything that is no number."""
    if isinstance(value, bool):
        return base is bool
    if isinstance(value, int | float):
        if base is float:
            return not math.isnan(value)
        if base is int:
            return isinstance(value, int) or (not strict and math.isfinite(value) and value == int(value))
        # A protocol of `typing`, such as SupportsFloat, says nothing of what it is for.
        return base.__module__ in ("typing", "numbers")
    if isinstance(value, str):
        made_of_text = base not in (bool, int, float, collections.abc.Callable) and base.__name__ != "Tensor"
        return made_of_text and not _is_role(base)
    is_list = isinstance(value, list) or OmegaConf.is_list(value)
    return issubclass(base, list | tuple | set) if is_list else issubclass(base, dict) or is_dataclass(base)


def _is_role(base: type) -> bool:
    """Whether a class is a protocol of somebody's own, which text doesn't follow."""
    return getattr(base, "_is_protocol", False) and base.__module__ not in ("typing", "collections.abc")


def _shown(value: Any) -> str:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _described(kind: Any, value: Any) -> str:
    """The end of a sentence: a type in words; of choices, all of them and the nearest."""
    parts, choices, nullable = [], [], False
    for part in _alternatives(kind):
        if get_origin(part) is Literal:
            choices += [str(choice) for choice in get_args(part)]
        elif part in (None, type(None)):
            nullable = True
        else:
            base = get_origin(part) or part
            word = "a list" if base in _LISTS else "a mapping" if base in _MAPPINGS else _WORDS.get(base)
            parts.append(word or f"a {getattr(base, '__name__', base)}")
    if choices:
        parts.append(f"one of: {', '.join(dict.fromkeys(choices))}")
    if "a number" in parts and "a whole number" in parts:
        parts.remove("a whole number")
    parts += ["null"] if nullable else []
    hint = did_you_mean(nearest_names(value, choices, 1)) if isinstance(value, str) else ""
    return f"{' or '.join(dict.fromkeys(parts))}. {hint}".rstrip()


def _alternatives(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _alternatives(part)
    elif get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    else:
        yield kind

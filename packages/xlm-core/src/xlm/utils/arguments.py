"""Compares arguments, as YAML gives them, with the annotations of the function or the class that is to take them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlm.utils.annotations import checked


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], key: str, strict: bool = True) -> None:
    """Raise a ConfigError for the first argument that is of another type than `function` says that it takes.

    Only plain values are looked at (text, numbers, lists, …; no objects), and only against annotations that can be
    read.

    Args:
        function: a class or a function.
        arguments: by name, such as `locals()` gives them; names that aren't those of arguments are passed over.
        key: of the configuration, above the arguments' names.
        strict: refuse 3.0 where a whole number is needed.
    """
    parameters: dict[str, tuple[inspect.Parameter, dict[str, Any]]] = {}
    for parameter, scope in _parameters(function):
        parameters.setdefault(parameter.name, (parameter, scope))
    for name, value in arguments.items():
        if name not in parameters:
            continue
        parameter, scope = parameters[name]
        if not (value is None and parameter.default is None):
            checked(f"{key}.{name}" if key else name, _plain(value), _evaluated(parameter.annotation, scope), strict)


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


def _plain(value: Any) -> Any:
    """Lists and mappings of a configuration as Python's own; what will be an object stays as it is.

    Values that aren't there yet are left out: Hydra complains of them.
    """
    if not OmegaConf.is_config(value) or value._is_none() or (OmegaConf.is_dict(value) and "_target_" in value):
        return value
    names = list(value) if OmegaConf.is_dict(value) else range(len(value))
    found = {}
    for name in names:
        try:
            found[name] = _plain(value[name])
        except OmegaConfBaseException:
            continue
    return found if OmegaConf.is_dict(value) else list(found.values())

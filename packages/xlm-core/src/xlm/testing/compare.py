"""Compares values with their declared types (TypedDicts, jaxtyping shapes) and with each other."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import torch
from jaxtyping import jaxtyped
from torch import Tensor


def mismatches(declared: Any, value: Any) -> list[str]:
    """How `value` differs from the TypedDict `declared`; dimensions of one name must have one size."""
    if not isinstance(value, Mapping):
        return [f"a {type(value).__name__} instead of a dict"]
    hints = get_type_hints(declared)
    wrong = [f"missing {name}" for name in sorted(_required(declared) - value.keys())]
    wrong += [f"undeclared {name}" for name in sorted(value.keys() - hints.keys())]
    with jaxtyped("context"):
        for name, hint in hints.items():
            if name in value and not holds(hint, value[name]):
                wrong.append(f"{name} is {describe_value(value[name])}, not {describe(hint)}")
    return wrong


def _required(declared: Any) -> set[str]:
    """The required keys of a TypedDict; `__required_keys__` misses NotRequired in postponed annotations."""
    hints = get_type_hints(declared, include_extras=True)
    return {name for name in declared.__required_keys__ if get_origin(hints[name]) is not NotRequired}


def holds(hint: Any, value: Any) -> bool:
    """Whether a value matches an annotation; True for annotations that cannot be checked at run time."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar | str):
        return True
    if hint is None:
        return value is None
    if origin in (Union, types.UnionType):
        return any(holds(arg, value) for arg in args)
    if origin is Literal:
        return value in args
    if is_typeddict(hint):
        return not mismatches(hint, value)
    if origin is not None:
        return _generic_holds(origin, args, value)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _generic_holds(origin: Any, args: tuple[Any, ...], value: Any) -> bool:
    """Whether a value matches a generic type: the container, and the entries of lists and dicts."""
    if isinstance(origin, type) and not isinstance(value, origin):
        return False
    if isinstance(value, Mapping) and len(args) == 2:
        return all(holds(args[0], k) and holds(args[1], v) for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str) and len(args) == 1:
        return all(holds(args[0], entry) for entry in value)
    return True


def declared_output(collator: Any) -> Any:
    """The TypedDict that a collator's `__call__` is annotated to return, or None."""
    try:
        hint = get_type_hints(type(collator).__call__).get("return")
    except (NameError, TypeError, AttributeError):
        return None  # an annotation that cannot be evaluated declares nothing
    return hint if is_typeddict(hint) else None


def declared_parameters(component: Any) -> tuple[Any, Any]:
    """The types In and Out of `LossFunction[In, Out]` or `Predictor[In, Out]`; None if not a TypedDict."""
    for cls in type(component).__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            args = get_args(base)
            if len(args) == 2 and getattr(get_origin(base), "__name__", "") in ("LossFunction", "Predictor"):
                inputs, outputs = args
                return (inputs if is_typeddict(inputs) else None, outputs if is_typeddict(outputs) else None)
    return None, None


def describe(hint: Any) -> str:
    """A type as it is written in source code, shortened."""
    named = isinstance(hint, type) and not get_args(hint)
    return str(hint.__name__ if named else hint).replace("typing.", "")


def describe_value(value: Any) -> str:
    """A value's type and repr, or a tensor's dtype and shape."""
    if hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]


def differences(one: Any, other: Any) -> list[str]:
    """The names of the entries that differ between two mappings; `["value"]` for other values that differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = list(dict.fromkeys([*one, *other]))
        return [
            str(name) for name in names if name not in one or name not in other or differences(one[name], other[name])
        ]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = (
            one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
        )
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        same = len(one) == len(other) and not any(differences(a, b) for a, b in zip(one, other, strict=True))
    else:
        same = bool(one == other)
    return [] if same else ["value"]


def near(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers differ by at most `tolerance`, absolute up to 1 and relative above."""
    return abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))

"""Declared types against real values: TypedDicts, jaxtyping's shapes, and what loss and predictor say of themselves."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from jaxtyping import jaxtyped


def mismatches(declared: Any, value: Any) -> list[str]:
    """What of `value` isn't as the TypedDict `declared` says; the named dimensions of its tensors have to agree."""
    if not isinstance(value, Mapping):
        return [f"a {type(value).__name__} instead of a dict"]
    hints = get_type_hints(declared)
    wrong = [f"missing {name}" for name in sorted(_required(declared) - value.keys())]
    wrong += [f"undeclared {name}" for name in sorted(value.keys() - hints.keys())]
    with jaxtyped("context"):
        for name, hint in hints.items():
            if name in value and not holds(hint, value[name]):
                wrong.append(f"{name} is no {describe(hint)}, but {describe_value(value[name])}")
    return wrong


def _required(declared: Any) -> set[str]:
    """The keys that a TypedDict must have; its own `__required_keys__` sees no NotRequired in postponed annotations."""
    hints = get_type_hints(declared, include_extras=True)
    return {name for name in declared.__required_keys__ if get_origin(hints[name]) is not NotRequired}


def holds(hint: Any, value: Any) -> bool:
    """Whether a value is what an annotation says; what cannot be decided at run time holds."""
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
        return _holds_inside(origin, args, value)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _holds_inside(origin: Any, args: tuple[Any, ...], value: Any) -> bool:
    """A generic type: the container, and of lists and dicts what is in them."""
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
        return None  # annotations that mean nothing at run time declare nothing
    return hint if is_typeddict(hint) else None


def declared_parameters(component: Any) -> tuple[Any, Any]:
    """The two types of `LossFunction[In, Out]` or `Predictor[In, Out]` of a component's class; None for none."""
    for cls in type(component).__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            args = get_args(base)
            if len(args) == 2 and getattr(get_origin(base), "__name__", "") in ("LossFunction", "Predictor"):
                taken, given = args
                return (taken if is_typeddict(taken) else None, given if is_typeddict(given) else None)
    return None, None


def describe(hint: Any) -> str:
    """A type as its source spells it, shortened."""
    named = isinstance(hint, type) and not get_args(hint)
    return str(hint.__name__ if named else hint).replace("typing.", "")


def describe_value(value: Any) -> str:
    """A value's type, and a tensor's dtype and shape."""
    if hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]

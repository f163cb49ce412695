"""Checks of values against annotations, and the options of schemas."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import json
import math
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, Predicate

from xlm.errors import ConfigError, did_you_mean, nearest_names

# Above any real count, and within a C int: libraries fail on larger numbers in their own ways.
LARGEST = 2**31 - 1
_TEXT = "a text"

# Digits are allowed too: YAML reads them as numbers, but they may be the name of a folder or a commit.
Text = Annotated[str, _TEXT]
Count = Annotated[int, Ge(1), Le(LARGEST)]
CountOrZero = Annotated[int, Ge(0), Le(LARGEST)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
AnySeed = Annotated[int, Ge(0), Le(2**63 - 1)]
Number = Annotated[float, Gt(-math.inf), Lt(math.inf)]
NonNegative = Annotated[float, Ge(0), Lt(math.inf)]
Probability = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Gt(0), Le(1)]

_MAX_SHOWN = 60
_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: (_TEXT, "texts"),
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_LISTS = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, list, tuple, set, frozenset)
_MAPPINGS = (collections.abc.Mapping, collections.abc.MutableMapping, dict)


def checked(key: str, value: Any, annotation: Any, strict: bool = True) -> Any:
    """The value, with digits as text for `Text`; ConfigError with the key, the value and what is allowed."""
    value = _as_text(value, annotation)
    if fits(value, annotation, strict):
        return value
    allowed = _bounds_broken(value, annotation) or describe(annotation)
    choices = [str(choice) for choice in _choices(annotation)]
    hint = did_you_mean(nearest_names(value, choices, 1)) if isinstance(value, str) else ""
    raise ConfigError(f"{key} is {display_value(value)}, and must be {allowed}. {hint}".rstrip(), key=key)


def fits(value: Any, annotation: Any, strict: bool = True) -> bool:
    """Whether a value can be of a type; True for objects and if unknown.

    Values are not converted: 1 and "no" are not booleans, and NaN is not accepted as a number.
    3.0 is a whole number only if not `strict`.
    """
    if not (value is None or isinstance(value, str | int | float | list | tuple | dict)):
        return True
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, part, strict) for part in get_args(annotation))
    if origin is Annotated:
        return fits(value, get_args(annotation)[0], strict) and all(
            _keeps(value, each) for each in _metadata(annotation)
        )
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(annotation))
    if annotation is None or annotation is type(None):
        return value is None
    base = origin or annotation
    if not inspect.isclass(base) or base in (Any, object):
        return True  # type variables, NewType, shapes of tensors
    if value is None:
        return False
    if base in _LISTS:
        return _fits_list(value, base, get_args(annotation), strict)
    if base in _MAPPINGS:
        of = get_args(annotation) if len(get_args(annotation)) == 2 else (Any, Any)
        return isinstance(value, dict) and all(
            fits(name, of[0], strict) and fits(item, of[1], strict) for name, item in value.items()
        )
    return _fits_class(value, base, strict)


def _keeps(value: Any, rule: Any) -> bool:
    """Whether a value satisfies the constraints next to its type in `Annotated`."""
    if isinstance(rule, Predicate):
        return bool(rule.func(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if isinstance(rule, Ge):
        return value >= rule.ge  # type: ignore[operator]
    if isinstance(rule, Gt):
        return value > rule.gt  # type: ignore[operator]
    if isinstance(rule, Le):
        return value <= rule.le  # type: ignore[operator]
    return not isinstance(rule, Lt) or value < rule.lt  # type: ignore[operator]


def _fits_list(value: Any, base: Any, parts: tuple[Any, ...], strict: bool) -> bool:
    if not isinstance(value, list | tuple):
        return isinstance(value, str) and base is collections.abc.Iterable
    if not parts:
        return True
    if base is tuple and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(fits(v, p, strict) for v, p in zip(value, parts, strict=True))
    return all(fits(item, parts[0], strict) for item in value)


def _is_finite(value: Any) -> bool:
    """Whether a value is a number; a whole number may be too large for a float."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _fits_class(value: Any, base: type, strict: bool) -> bool:
    """Whether a plain value can be of a class; text can be the name of anything except a number."""
    if isinstance(value, bool):
        return base is bool
    if isinstance(value, int | float):
        if base is float:
            # A whole number may be too large for a float.
            return abs(value) <= sys.float_info.max if isinstance(value, int) else not math.isnan(value)
        if base is int:
            return isinstance(value, int) or (not strict and math.isfinite(value) and value == int(value))
        # A protocol of `typing`, like SupportsFloat, does not restrict plain values.
        return base.__module__ in ("typing", "numbers")
    if isinstance(value, str):
        made_of_text = base not in (bool, int, float, collections.abc.Callable) and base.__name__ != "Tensor"
        return made_of_text and not _is_role(base)
    if isinstance(value, dict):
        return issubclass(base, dict) or is_dataclass(base)
    return issubclass(base, list | tuple | set)


def _is_role(base: type) -> bool:
    """Whether a class is a user-defined protocol, which text doesn't satisfy."""
    return getattr(base, "_is_protocol", False) and base.__module__ not in ("typing", "collections.abc")


def _as_text(value: Any, annotation: Any) -> Any:
    """A number as text, also inside lists, if `Text` is allowed."""
    for member in _members(annotation):
        base = _base(member)
        if isinstance(value, list) and get_origin(base) is list:
            return [_as_text(each, get_args(base)[0]) for each in value]
        if _is_finite(value) and _TEXT in _metadata(member):
            return str(value)
        if member is not base and len(_members(base)) > 1:
            return _as_text(value, base)
    return value


def takes_text(annotation: Any) -> bool:
    """Whether any text is allowed; then digits are text too."""
    return any(_base(member) is str for member in _members(annotation))


def describe(annotation: Any) -> str:
    """What an annotation allows: "true or false", "a whole number, at least 1, or null"."""
    words: list[str] = []
    for member in sorted(_members(annotation), key=lambda each: _base(each) in (None, type(None))):
        words += [str(choice) for choice in get_args(member)] if get_origin(member) is Literal else [_described(member)]
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    *first, last = dict.fromkeys(words)
    if not first:
        return last
    comma = "," if len(first) == 1 and "," in first[0] else ""
    return f"{', '.join(first)}{comma} or {last}"


def _described(member: Any) -> str:
    base = _base(member)
    if own := [text for text in _metadata(member) if isinstance(text, str)]:
        return own[0]
    if base is type(None) or base is None:
        return "null"
    if base in _WORDS:
        bounds = _bounds(member)
        return f"{_WORDS[base][0]}, {bounds}" if bounds else _WORDS[base][0]
    origin = get_origin(base) or base
    if origin in _MAPPINGS:
        return "a mapping"
    if origin in _LISTS:
        parts = [part for part in get_args(base) if part is not Ellipsis]
        of = {_WORDS.get(_base(each), ("", ""))[1] for part in parts for each in _members(part)}
        return f"a list of {of.pop()}" if len(of) == 1 and of != {""} else "a list"
    return f"a {getattr(origin, '__name__', origin)}"


def _bounds_broken(value: Any, annotation: Any) -> str:
    """The bounds, for a value of the right type that is outside them."""
    if not _is_finite(value) or abs(value) > sys.float_info.max:
        return ""
    fitting = [m for m in _members(annotation) if _base(m) is type(value) or (_base(m) is float and type(value) is int)]
    return _bounds(fitting[0], value) if len(fitting) == 1 else ""


def _bounds(member: Any, value: float = 0) -> str:
    found = [
        (name, getattr(bound, name))
        for bound in _metadata(member)
        if isinstance(bound, Ge | Gt | Le | Lt)
        for name in _BOUNDS
        if hasattr(bound, name)
    ]
    # A bound that only keeps numbers within the range of a C int isn't mentioned unless it is violated.
    told = [f"{_BOUNDS[name]} {bound}" for name, bound in found if abs(bound) < LARGEST or value > bound > 0]
    return " and ".join(told)


def display_value(value: Any) -> str:
    """A value in the syntax of a configuration, shortened."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, float):
        text = str(value)
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, including those of nested unions."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]


def _base(member: Any) -> Any:
    return get_args(member)[0] if get_origin(member) is Annotated else member


def _metadata(member: Any) -> tuple[Any, ...]:
    return get_args(member)[1:] if get_origin(member) is Annotated else ()


def _choices(annotation: Any) -> list[Any]:
    return [choice for m in _members(annotation) if get_origin(_base(m)) is Literal for choice in get_args(_base(m))]


Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Option:
    """One option of a schema."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING


def option(default: Any, help: str) -> Any:
    """A field of a schema, which is a dataclass, with its default and description."""
    return dataclasses.field(default=default, metadata={"help": help})


def options_in(schema: type) -> dict[str, Option]:
    """The options of a schema by name, in the order of their definition."""
    hints = get_type_hints(schema, include_extras=True)
    return {
        each.name: Option(each.name, hints[each.name], each.default, str(each.metadata.get("help", "")))
        for each in dataclasses.fields(schema)
        if "help" in each.metadata
    }


def read_options(schema: type[Schema], given: Mapping[str, Any], section: str = "") -> Schema:
    """The schema filled with the given values; ConfigError for an unknown name or a value outside its type."""
    known = options_in(schema)
    check_names(given, known, section)
    return schema(
        **{name: checked(_key(section, name), value, known[name].annotation) for name, value in given.items()}
    )


def check_names(given: Iterable[str], known: Iterable[str], section: str = "") -> None:
    """ConfigError with the nearest name, for an unknown key."""
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean([_key(section, near) for near in nearest_names(str(name), known, 1)])
            there = ", ".join(_key(section, each) for each in known)
            key = _key(section, str(name))
            raise ConfigError(f"Unknown option '{key}'. Options: {there}. {hint}".rstrip(), key=key)


def default_of(option: Option) -> str:
    """The default in the syntax of a configuration; empty without a default."""
    value = option.default
    if option.is_required or value == ():
        return ""
    return value if isinstance(value, str) else display_value(value)


def _key(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name

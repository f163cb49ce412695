"""Options by the annotations of a schema: what a value may be, said in one sentence, and a line of help for each."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from xlm.errors import ConfigError, did_you_mean, nearest_names

# What no count reaches, and what fits a C int: libraries fail on more in ways of their own.
LARGEST = 2**31 - 1
_TEXT = "a text"

# Digits too, which are a number to YAML, and may be the name of a folder or the beginning of a commit's.
Text = Annotated[str, _TEXT]
Count = Annotated[int, Ge(1), Le(LARGEST)]
CountOrZero = Annotated[int, Ge(0), Le(LARGEST)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
AnySeed = Annotated[int, Ge(0), Le(2**63 - 1)]
NonNegative = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Gt(0), Le(1)]

_MAX_SHOWN = 60
_NAMES: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: (_TEXT, "texts"),
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
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
    """A field of a schema, which is a dataclass: its default, and what it is for."""
    return dataclasses.field(default=default, metadata={"help": help})


def options_in(schema: type) -> dict[str, Option]:
    """The options of a schema by name, in the order in which they are written."""
    hints = get_type_hints(schema, include_extras=True)
    return {
        each.name: Option(each.name, hints[each.name], each.default, str(each.metadata.get("help", "")))
        for each in dataclasses.fields(schema)
        if "help" in each.metadata
    }


def read_options(schema: type[Schema], given: Mapping[str, Any], section: str = "") -> Schema:
    """The schema filled with what is given; ConfigError for a name that it lacks, and for a value outside its type."""
    known = options_in(schema)
    check_names(given, known, section)
    return schema(
        **{name: checked(_key(section, name), value, known[name].annotation) for name, value in given.items()}
    )


def check_names(given: Iterable[str], known: Iterable[str], section: str = "") -> None:
    """ConfigError, with the nearest name, for one that is not known."""
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean([_key(section, near) for near in nearest_names(str(name), known, 1)])
            there = ", ".join(_key(section, each) for each in known)
            key = _key(section, str(name))
            raise ConfigError(f"Unknown option '{key}'. Options: {there}. {hint}".rstrip(), key=key)


def check_arguments(function: Callable[..., Any], values: Mapping[str, Any], section: str) -> None:
    """ConfigError for a value outside the type that a function's parameter is annotated with.

    Args:
        function: a function, or a class whose constructor is meant; parameters annotated with Any are passed over.
        values: the arguments, as `locals()` gives them; other names are passed over.
        section: where the configuration has them.
    """
    made = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(made, include_extras=True)
    for name, annotation in hints.items():
        if name in values and annotation is not Any and name != "return":
            checked(f"{section}.{name}", _plain(values[name]), annotation)


def checked(key: str, value: Any, annotation: Any) -> Any:
    """The value, texts as text; ConfigError that names the key, the value and what is allowed."""
    from pydantic import ValidationError

    value = _as_text(value, annotation)
    try:
        _adapter(annotation).validate_python(value)
    except ValidationError:
        raise ConfigError(_refusal(key, value, annotation), key=key) from None
    return value


def _as_text(value: Any, annotation: Any) -> Any:
    """A number as text, and those of a list, where `Text` is taken."""
    for member in _members(annotation):
        base = _base(member)
        if isinstance(value, list) and get_origin(base) is list:
            return [_as_text(each, get_args(base)[0]) for each in value]
        if type(value) in (int, float) and math.isfinite(value) and _TEXT in _metadata(member):
            return str(value)
        if member is not base and len(_members(base)) > 1:
            return _as_text(value, base)
    return value


@functools.cache
def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    # Strict: no is no truth value, 1.0 is no count.
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))


def _refusal(key: str, value: Any, annotation: Any) -> str:
    allowed = _bounds_broken(value, annotation) or describe(annotation)
    choices = [str(choice) for choice in _choices(annotation)]
    hint = did_you_mean(nearest_names(value, choices, 1)) if isinstance(value, str) else ""
    return f"{key} is {shown(value)}, and must be {allowed}. {hint}".rstrip()


def _bounds_broken(value: Any, annotation: Any) -> str:
    """The bounds, for a value that is of the right type and outside them."""
    if type(value) not in (int, float) or not math.isfinite(value):
        return ""
    fitting = [m for m in _members(annotation) if _base(m) is type(value) or (_base(m) is float and type(value) is int)]
    return _bounds(fitting[0], value) if len(fitting) == 1 else ""


def takes_text(annotation: Any) -> bool:
    """Whether any text may be said: then digits are text too."""
    return any(_base(member) is str or _TEXT in _metadata(member) for member in _members(annotation))


def describe(annotation: Any) -> str:
    """What an annotation allows: "true or false", "a whole number, at least 1, or null"."""
    words: list[str] = []
    for member in _members(annotation):
        words += [str(choice) for choice in get_args(member)] if get_origin(member) is Literal else [_described(member)]
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
    if base in _NAMES:
        bounds = _bounds(member)
        return f"{_NAMES[base][0]}, {bounds}" if bounds else _NAMES[base][0]
    origin = get_origin(base) or base
    if origin is dict or (inspect.isclass(origin) and issubclass(origin, Mapping)):
        return "a mapping"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        of = [_NAMES[_base(each)][1] for each in _members(next(iter(get_args(base)), Any)) if _base(each) in _NAMES]
        return f"a list of {of[0]}" if of else "a list"
    return getattr(origin, "__name__", str(origin))


def _bounds(member: Any, value: float = 0) -> str:
    found = [
        (name, getattr(bound, name))
        for bound in _metadata(member)
        if isinstance(bound, Ge | Gt | Le | Lt)
        for name in _BOUNDS
        if hasattr(bound, name)
    ]
    # A bound that only keeps numbers within what computers take isn't worth a word, unless it is the one broken.
    told = [f"{_BOUNDS[name]} {bound}" for name, bound in found if abs(bound) < LARGEST or value > bound]
    return " and ".join(told)


def shown(value: Any) -> str:
    """A value as a configuration says it, shortened."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, float):
        text = str(value)
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def default_of(option: Option) -> str:
    """The default as a configuration says it; empty where there is none."""
    if option.is_required:
        return ""
    value = option.default
    return value if isinstance(value, str) else shown(list(value) if isinstance(value, tuple) else value)


def _key(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, those of unions inside too."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]


def _base(member: Any) -> Any:
    return get_args(member)[0] if get_origin(member) is Annotated else member


def _metadata(member: Any) -> tuple[Any, ...]:
    return get_args(member)[1:] if get_origin(member) is Annotated else ()


def _choices(annotation: Any) -> list[Any]:
    return [choice for m in _members(annotation) if get_origin(_base(m)) is Literal for choice in get_args(_base(m))]


def _plain(value: Any) -> Any:
    """Lists and mappings of a configuration as Python's own."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

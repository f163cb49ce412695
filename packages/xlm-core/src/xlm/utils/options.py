"""Options by the annotations of a schema: read from a configuration or a command line, with a line of help for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.utils.annotations import checked, shown

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


def default_of(option: Option) -> str:
    """The default as a configuration says it; empty where there is none."""
    value = option.default
    if option.is_required or value == ():
        return ""
    return value if isinstance(value, str) else shown(value)


def _key(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name

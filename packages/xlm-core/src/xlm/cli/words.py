"""Command lines of the doors that compose no configuration: words, and `key=value` options with defaults."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.utils.annotations import takes_text
from xlm.utils.options import options_in, read_options
from xlm.utils.text import is_quoted, split

Schema = TypeVar("Schema")
_NO_TRUTH_VALUES = ("yes", "no", "on", "off", "y", "n")


def is_job(name: str, args: Sequence[str]) -> bool:
    """Whether a command line asks for this job, as `xlm NAME` or `job_type=NAME`."""
    return bool(args) and (args[0] == name or f"job_type={name}" in args)


def read_words(name: str, args: Sequence[str], schema: type[Schema]) -> tuple[list[str], Schema]:
    """The words behind the job's name, and its options; an option without a value (`title=`) has its default.

    Raises:
        ConfigError: a flag, an option that the job doesn't have, or a value outside its type.
    """
    rest = list(args)
    rest.remove(name if name in rest else f"job_type={name}")
    options = options_in(schema)
    given: dict[str, Any] = {}
    words = []
    for text in rest:
        key, equals, value = text.partition("=")
        if text.startswith("-"):
            raise ConfigError(f"xlm {name} takes no {text}. Options: {_listed(options)}.")
        if equals and key in options:
            if value:
                given[key] = os.path.expanduser(value) if takes_text(options[key].annotation) else as_value(text)
        elif equals and key.isidentifier():
            hint = did_you_mean(nearest_names(key, options, 1))
            raise ConfigError(f"xlm {name} has no option '{key}'. {hint or f'Options: {_listed(options)}.'}", key=key)
        else:
            words.append(text)
    return words, read_options(schema, given)


def as_list(value: str) -> list[str]:
    """`[a,b]`, as Hydra writes a list, or `a,b`; a part in quotes, and a path that is there, may hold commas."""
    if value and Path(value).exists():
        return [value]
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    parts = [part.strip() for part in _joined(split(inner))]
    return [part[1:-1] if is_quoted(part) else os.path.expanduser(part) for part in parts if part]


def _joined(parts: Sequence[str]) -> Iterator[str]:
    """The parts of a list, with those put together again that are a path only together: `runs/a,seed=1`."""
    at = 0
    while at < len(parts):
        ends = range(len(parts), at + 1, -1) if not Path(parts[at].strip()).exists() else ()
        end = next((end for end in ends if Path(",".join(parts[at:end]).strip()).exists()), at + 1)
        yield ",".join(parts[at:end])
        at = end


def as_value(text: str) -> Any:
    """The value of `key=value` as Hydra reads it: YAML, but 1e-3 is a number and no is text; ConfigError for none."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    key, _, value = text.partition("=")
    if value.lower() in _NO_TRUTH_VALUES:
        return value
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore[index,call-overload]
    except YAMLError as error:
        raise ConfigError(f"{text} cannot be read. A list is written [a,b].", key=key) from error


def _listed(options: Iterable[str]) -> str:
    return ", ".join(f"{key}=" for key in options)

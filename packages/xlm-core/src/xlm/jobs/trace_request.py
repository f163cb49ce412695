"""What `xlm trace` is asked for: runs, prompts, options of samplers; as `xlm generate` takes them, too."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xlm.cli.words import as_list, as_value
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.schemas import TraceRuns
from xlm.utils.annotations import checked
from xlm.utils.options import options_in

STAGES = {"test": "test", "val": "validate"}
_OF_SAMPLER = "predictor"
_OPTION = re.compile(r"\+*[\w.+=-]*\.predictor\.\w+|\+*[A-Za-z_][\w.]*")
# An option of `xlm generate` that has another name here; the others are called the same.
_GENERATION, _OTHER_NAMES = "generation.", {"num_examples": "num_prompts"}
_PATHS = ("out", "prompt_file")
_RUN_KEYS = ("checkpoint_path", "ckpt_path")


@dataclass(frozen=True)
class Request(TraceRuns):
    """What `xlm trace` is asked for.

    Args:
        sampler: whose → option → value: "" is everybody's, else a run's name or a family's.
    """

    sampler: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_request(words: Sequence[str]) -> Request:
    """The request of the words behind `xlm trace`: names of runs and `key=value`; ConfigError for anything else."""
    options = options_in(TraceRuns)
    known = list(options)
    given: dict[str, Any] = {}
    sampler: dict[str, dict[str, Any]] = {}
    runs: list[str] = []
    for text in words:
        key, equals, value = text.partition("=")
        if not equals or not _OPTION.fullmatch(key):  # the name of a run may hold one: runs/a,seed=1
            if text.startswith("-"):
                raise ConfigError(f"xlm trace takes no {text}. Options are written key=value: {', '.join(known)}.")
            runs.append(text)
            continue
        whose, dot, of_sampler = key.lstrip("+").rpartition(".")
        if dot and (whose == _OF_SAMPLER or whose.endswith(f".{_OF_SAMPLER}")):
            name = whose.removesuffix(_OF_SAMPLER).removesuffix(".")
            sampler.setdefault(name, {})[of_sampler] = as_value(text)
            continue
        name = key.removeprefix(_GENERATION)
        if name != key:
            name = _OTHER_NAMES.get(name, name)
        if name in _RUN_KEYS:
            runs.append(os.path.expanduser(value))
        elif name not in known:
            hint = did_you_mean(nearest_names(name, known, 1))
            there = f"{', '.join(known)}, and {_OF_SAMPLER}.<option> of the samplers"
            raise ConfigError(f"Unknown option '{key}'. Options: {there}. {hint}".rstrip(), key=key)
        elif name == "runs":
            given[name] = as_list(value)
        elif name == "prompts":
            given[name] = _listed(value, text)
        else:
            said = os.path.expanduser(value) if name in _PATHS else as_value(text)
            given[name] = checked(key, said, options[name].annotation)
    runs += given.pop("runs", ())
    if not runs:
        raise ConfigError("Which runs? xlm trace runs/a runs/b, or runs=[runs/a,runs/b], or a trace.json.")
    return Request(tuple(runs), **given, sampler=sampler)


def _listed(value: str, text: str) -> tuple[str, ...]:
    """`[a,b]` or one value, as texts: a prompt of digits stays a prompt."""
    import yaml

    try:
        loaded = yaml.load(value, Loader=yaml.BaseLoader) if value.startswith("[") else [value]
    except yaml.YAMLError as error:
        raise ConfigError(f"{text} cannot be read. A list is written [a,b].") from error
    return tuple(str(item) for item in loaded)

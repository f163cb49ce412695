"""What `xlm trace` is asked for: runs, prompts, options of samplers; as `xlm generate` takes them, too."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from xlm.cli.words import as_list, as_value
from xlm.errors import ConfigError, did_you_mean, nearest_names

STAGES = {"test": "test", "val": "validate"}
_OF_SAMPLER = "predictor"
_OPTION = re.compile(r"\+*[\w.+=-]*\.predictor\.\w+|\+*[A-Za-z_][\w.]*")
# An option of `xlm generate` that has another name here; the others are called the same.
_GENERATION, _OTHER_NAMES = "generation.", {"num_examples": "num_prompts"}
_PATHS = ("out", "prompt_file")
_RUN_KEYS = ("checkpoint_path", "ckpt_path")


@dataclass(frozen=True)
class Request:
    """What `xlm trace` is asked for.

    Args:
        runs: runs' folders, checkpoints, exported folders or ids of the hub; files that end in .json are traces.
        prompts: None takes `num_prompts` of the first run's `split`.
        prompt_file: a prompt a line instead, or JSON lines; "-" is standard input.
        num_samples: of each prompt and run.
        mode: what prompts are: auto, answer, continue or infill.
        seed: from which all runs draw.
        apply_ema, revision, trust_remote_code: as for `xlm.load`.
        view: dotted name of the function that draws a prompt; None takes the first run's `trace_view`.
        out: the page; its JSON, GIF and PNG stand beside it. None: trace.html, or beside a trace that was given.
        gif, png, replay: also an animation, a strip of moments, a replay in the terminal.
        sampler: whose → option → value: "" is everybody's, else a run's name or a family's.
    """

    runs: tuple[str, ...]
    prompts: tuple[str, ...] | None = None
    prompt_file: str | None = None
    num_prompts: int = 4
    num_samples: int = 1
    mode: str = "auto"
    split: str = "test"
    seed: int = 0
    device: str = "cpu"
    apply_ema: bool = True
    revision: str | None = None
    trust_remote_code: bool = False
    view: str | None = None
    title: str | None = None
    out: str | None = None
    gif: bool = False
    png: bool = False
    replay: bool = False
    sampler: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_request(words: Sequence[str]) -> Request:
    """The request of the words behind `xlm trace`: names of runs and `key=value`; ConfigError for anything else."""
    known = [each.name for each in fields(Request) if each.name != "sampler"]
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
        whose, dot, option = key.lstrip("+").rpartition(".")
        if dot and (whose == _OF_SAMPLER or whose.endswith(f".{_OF_SAMPLER}")):
            name = whose.removesuffix(_OF_SAMPLER).removesuffix(".")
            sampler.setdefault(name, {})[option] = as_value(text)
            continue
        name = key.removeprefix(_GENERATION)
        if name != key:
            name = _OTHER_NAMES.get(name, name)
        if name in _RUN_KEYS:
            runs.append(os.path.expanduser(value))
        elif name not in known:
            hint = did_you_mean(nearest_names(name, known, 1))
            options = f"{', '.join(known)}, and {_OF_SAMPLER}.<option> of the samplers"
            raise ConfigError(f"Unknown option '{key}'. Options: {options}. {hint}".rstrip(), key=key)
        else:
            given[name] = _value(name, value, text)
    runs += given.pop("runs", ())
    if not runs:
        raise ConfigError("Which runs? xlm trace runs/a runs/b, or runs=[runs/a,runs/b], or a trace.json.")
    return _checked(Request(tuple(runs), **given, sampler=sampler))


def _value(name: str, value: str, text: str) -> Any:
    if name == "runs":
        return as_list(value)
    if name in _PATHS:
        return os.path.expanduser(value)
    return _listed(value, text) if name == "prompts" else as_value(text)


def _listed(value: str, text: str) -> tuple[str, ...]:
    """`[a,b]` or one value, as texts: a prompt of digits stays a prompt."""
    import yaml

    try:
        loaded = yaml.load(value, Loader=yaml.BaseLoader) if value.startswith("[") else [value]
    except yaml.YAMLError as error:
        raise ConfigError(f"{text} cannot be read. A list is written [a,b].") from error
    return tuple(str(item) for item in loaded)


def _checked(request: Request) -> Request:
    for name in ("num_prompts", "num_samples"):
        value = getattr(request, name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value}, and must be at least 1.", key=name)
    if type(request.seed) is not int:
        raise ConfigError(f"seed is {request.seed}, and must be a whole number.", key="seed")
    for name in ("gif", "png", "replay", "apply_ema", "trust_remote_code"):
        if not isinstance(getattr(request, name), bool):
            raise ConfigError(f"{name} is {getattr(request, name)}, and must be true or false.", key=name)
    if request.split not in STAGES:
        raise ConfigError(f"split is '{request.split}', and must be one of: {', '.join(STAGES)}.", key="split")
    return request

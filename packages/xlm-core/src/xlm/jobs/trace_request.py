"""What `xlm trace` is asked for: runs, prompts, options of samplers; as `xlm generate` takes them, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from xlm.cli.words import as_value
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.utils.options import Count, Seed, Text, checked, option, options_in

STAGES = {"test": "test", "val": "validate"}
_OF_SAMPLER = "predictor"
# An option of `xlm generate` that has another name here; the others are called the same.
_GENERATION, _OTHER_NAMES = "generation.", {"num_examples": "num_prompts"}
_RUN_KEYS = ("checkpoint_path", "ckpt_path")


@dataclass(frozen=True)
class Request:
    """What `xlm trace` is asked for.

    Args:
        runs: runs' folders, checkpoints, exported folders or ids of the hub; files that end in .json are traces.
        prompts: None takes `num_prompts` of the first run's `split`.
        sampler: whose → option → value: "" is everybody's, else a run's name or a family's.
    """

    runs: tuple[str, ...]
    prompts: tuple[str, ...] | None = None
    prompt_file: Text | None = option(None, "a prompt a line, or JSON lines; - is standard input")
    num_prompts: Count = option(4, "of the first run's data, where no prompts are given")
    num_samples: Count = option(1, "of each prompt and run")
    mode: Literal["auto", "answer", "continue", "infill"] = option("auto", "what prompts are")
    split: Literal["test", "val"] = option("test", "of the data that prompts are taken from")
    seed: Seed = option(0, "from which all runs draw")
    device: Text = option("cpu", "where models run")
    apply_ema: bool = option(True, "averaged weights where there are some")
    revision: Text | None = option(None, "branch, tag or commit on the hub")
    trust_remote_code: bool = option(False, "let a configuration from the hub call any function")
    view: Text | None = option(None, "dotted name of a function that draws a prompt; the first run's trace_view")
    title: Text | None = option(None, "of the page")
    out: Text | None = option(None, "the page, by default trace.html; JSON, GIF and PNG stand beside it")
    gif: bool = option(False, "an animation too")
    png: bool = option(False, "a strip of moments too")
    replay: bool = option(False, "a replay in the terminal")
    sampler: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_request(words: Sequence[str]) -> Request:
    """The request of the words behind `xlm trace`: names of runs and `key=value`; ConfigError for anything else."""
    known = [each.name for each in fields(Request) if each.name != "sampler"]
    given: dict[str, Any] = {}
    sampler: dict[str, dict[str, Any]] = {}
    runs: list[str] = []
    for text in words:
        key, equals, value = text.partition("=")
        if not equals:
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
            runs.append(value)
        elif name not in known:
            hint = did_you_mean(nearest_names(name, known, 1))
            options = f"{', '.join(known)}, and {_OF_SAMPLER}.<option> of the samplers"
            raise ConfigError(f"Unknown option '{key}'. Options: {options}. {hint}".rstrip(), key=key)
        else:
            if name in ("prompts", "runs"):
                given[name] = _listed(value, text)
            else:
                given[name] = checked(key, as_value(text), options_in(Request)[name].annotation)
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

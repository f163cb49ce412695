"""Words of a command line: options that a schema describes, and how a checkpoint is named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from xlm.commands import BUILT_IN_JOBS, Job, named_job
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.schemas import CHECKPOINT_SECTIONS, PATH_KEYS, SECTIONS_OF_JOBS, Names, Prompts
from xlm.utils.annotations import options_in, read_options, takes_text
from xlm.utils.text import is_quoted, split

_NO_TRUTH_VALUES = ("yes", "no", "on", "off", "y", "n")
_KEY = re.compile(r"\+*[A-Za-z_][\w.]*")
_OF_GENERATE = "generation."


def read_command(args: Sequence[str]) -> tuple[list[str], Any]:
    """`read_words` of the standalone command that a command line names."""
    return read_words(BUILT_IN_JOBS[named_job(args)], args)


@dataclass(frozen=True)
class NoOptions:
    """What a standalone command without options of its own takes."""


def read_words(job: Job, args: Sequence[str]) -> tuple[list[str], Any]:
    """The words of a standalone command, and its options as the schema has them; `title=` alone is its default.

    Words are what is no option: names, and dotted keys with values, such as options of samplers.

    Args:
        args: the command line, the command's name included.

    Raises:
        ConfigError: a flag, an option that the command doesn't have, or a value outside its type.
    """
    rest = list(args)
    rest.remove(job.name if job.name in rest else f"job_type={job.name}")
    schema = job.schemas[0] if job.schemas else NoOptions
    options = options_in(schema)
    given: dict[str, Any] = {}
    words = []
    for text in rest:
        key, equals, value = text.partition("=")
        name = job.other_names.get(key, key)
        if text.startswith("-"):
            raise ConfigError(f"xlm {job.name} takes no {text}. Options: {_listed(options)}.")
        if equals and name in options:
            if value:
                given[name] = _value(key, value, options[name].annotation, given.get(name, ()))
        elif equals and _is_misspelt(key, job):
            hint = did_you_mean(nearest_names(name.removeprefix(_OF_GENERATE), options, 1))
            hint = hint or f"Options: {_listed(options)}."
            raise ConfigError(f"xlm {job.name} has no option '{key}'. {hint} {job.note}".rstrip(), key=key)
        else:
            words.append(text)
    return words, read_options(schema, given)


def _is_misspelt(key: str, job: Job) -> bool:
    """Whether `key=` can only be meant as an option of a command that doesn't have it."""
    if job.takes_overrides or not _KEY.fullmatch(key):
        return False
    return key.isidentifier() or (bool(job.note) and ".predictor." not in f".{key}")


def _value(key: str, text: str, annotation: Any, before: Any) -> Any:
    kinds = (annotation, *get_args(annotation))
    if Names in kinds:
        return (*before, *as_list(text))
    if Prompts in kinds:
        return _prompts(key, text)
    return os.path.expanduser(text) if takes_text(annotation) else as_value(f"{key}={text}")


def _prompts(key: str, text: str) -> tuple[str, ...]:
    """`[a,b]` or one value, as texts: a prompt of digits stays a prompt."""
    import yaml

    try:
        loaded = yaml.load(text, Loader=yaml.BaseLoader) if text.startswith("[") else [text]
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text} cannot be read. A list is written [a,b].", key=key) from error
    return tuple(str(item) for item in loaded)


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


# With one of these the command line composes a configuration of its own.
_COMPOSES = ("experiment", "model", "model_type")


def job_of_stored_config(overrides: Sequence[str]) -> str | None:
    """The job of a command line that names a checkpoint for it and nothing to compose; else None."""
    said = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    section = _checkpoint_section(said.get("job_type", ""))
    if not section or any(key in said for key in _COMPOSES):
        return None
    return said["job_type"] if any(said.get(f"{section}.{key}") for key in PATH_KEYS) else None


def with_checkpoint_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """`eval runs/a` and `eval checkpoint=runs/a` with the key of the job's section, `eval.checkpoint_path=runs/a`.

    Raises:
        ConfigError: several checkpoints are named.
    """
    said = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    job = said.get("job_type", "")
    section = _checkpoint_section(job)
    if not section:
        return tuple(overrides)
    named = [text for text in overrides if _names_one(text)]
    if len(named) > 1:
        paths = " and ".join(text.removeprefix(_CHECKPOINT) for text in named)
        raise ConfigError(f"xlm {job} takes one checkpoint, and was given {paths}.", key="checkpoint")
    key = f"{section}.{PATH_KEYS[0]}"
    return tuple(f"{key}={text.removeprefix(_CHECKPOINT)}" if text in named else text for text in overrides)


def _checkpoint_section(job: str) -> str:
    """Where the options of a job that loads a trained model are; empty for other jobs."""
    schema = SECTIONS_OF_JOBS.get(job)
    return schema.section if schema is not None and schema.section in CHECKPOINT_SECTIONS else ""


_CHECKPOINT = "checkpoint="
_OVERRIDE = re.compile(r"[~+]*[\w.@:/-]+=.*", re.DOTALL)


def _names_one(text: str) -> bool:
    """Whether a word is a checkpoint: no override, or a path that looks like one (`runs/a,seed=1`) and is there."""
    if text.startswith((_CHECKPOINT, "~/")):
        return True
    if text.startswith("~"):  # an override that removes something
        return False
    return _OVERRIDE.fullmatch(text) is None or ("/" in text.partition("=")[0] and Path(text).exists())

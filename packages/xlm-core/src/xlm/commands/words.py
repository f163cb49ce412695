"""Words of a command line: options that a schema describes, and names of checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from xlm.commands import BUILT_IN_JOBS, MODEL_KEYS, Job, exit_code, named_job
from xlm.commands.prompt_words import JOBS as JOBS_WITH_PROMPTS
from xlm.commands.prompt_words import join_prompts, prompt_in
from xlm.compose.overrides import literal, quote
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.reports.run import runs_folder
from xlm.schemas import CHECKPOINT_SECTIONS, PATH_KEYS, SECTIONS_OF_JOBS, Names, Prompts
from xlm.utils.annotations import options_in, read_options, takes_text
from xlm.utils.text import is_quoted, split

_NO_TRUTH_VALUES = ("yes", "no", "on", "off", "y", "n")
_KEY = re.compile(r"\+*[A-Za-z_][\w.]*")
_OF_GENERATE = "generation."


def read_command(args: Sequence[str]) -> tuple[list[str], Any]:
    """`read_words` for the standalone command of a command line."""
    return read_words(BUILT_IN_JOBS[named_job(args)], args)


@dataclass(frozen=True)
class NoOptions:
    """The schema of a standalone command without options."""


def read_words(job: Job, args: Sequence[str]) -> tuple[list[str], Any]:
    """Read the words and options of a standalone command; an empty value, such as `title=`, means the default.

    Words are all arguments that are not options: names, and dotted keys with values, such as sampler options.

    Args:
        args: the command line, with the command's name.

    Raises:
        ConfigError: a flag, an option that the command doesn't have, or a value outside its type.
    """
    rest = join_prompts(args)
    rest.remove(job.name if job.name in rest else f"job_type={job.name}")
    schema = job.schemas[0] if job.schemas else NoOptions
    options = options_in(schema)
    given: dict[str, Any] = {}
    words = []
    for word in rest:
        text = job.other_names.get(word, word) if word.startswith("-") else word
        key, equals, value = text.partition("=")
        name = job.other_names.get(key, key)
        if (prompt := prompt_in(text)) is not None and job.name in JOBS_WITH_PROMPTS:
            given["prompts"] = (*given.get("prompts", ()), prompt)
        elif text.startswith("-"):
            raise ConfigError(f"xlm {job.name} does not accept {text}. Options: {_listed(options)}.")
        elif equals and name in options:
            if (name, value) == ("prompts", "-"):
                given["prompt_file"] = value  # standard input; `--prompt -` is a text
            elif value:
                given[name] = _value(key, value, options[name].annotation, given.get(name, ()))
        elif equals and _is_misspelt(key, job):
            hint = did_you_mean(nearest_names(name.removeprefix(_OF_GENERATE), options, 1))
            hint = hint or f"Options: {_listed(options)}."
            raise ConfigError(f"xlm {job.name} has no option '{key}'. {hint} {job.note}".rstrip(), key=key)
        else:
            words.append(text)
    return words, read_options(schema, given)


def run_standalone(job: Job, args: Sequence[str]) -> int:
    """Run a standalone command with the words and options of its command line; returns the exit code."""
    return exit_code(job.load()(*read_words(job, args)))


def _is_misspelt(key: str, job: Job) -> bool:
    """Whether `key=` can only be a misspelled option of the command."""
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
    """`[a,b]` or one value, as texts, also if a prompt has only digits."""
    import yaml

    try:
        loaded = yaml.load(text, Loader=yaml.BaseLoader) if text.startswith("[") else [text]
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text} cannot be read. Write a list as [a,b].", key=key) from error
    return tuple(str(item) for item in loaded)


def as_list(value: str) -> list[str]:
    """Split `[a,b]`, a list in Hydra's notation, or `a,b`; quoted parts and existing paths may contain commas."""
    if value and Path(value).exists():
        return [value]
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    parts = [part.strip() for part in _joined(split(inner))]
    return [part[1:-1] if is_quoted(part) else os.path.expanduser(part) for part in parts if part]


def _joined(parts: Sequence[str]) -> Iterator[str]:
    """The parts of a list; parts that are an existing path only together, such as `runs/a,seed=1`, are joined again."""
    at = 0
    while at < len(parts):
        ends = range(len(parts), at + 1, -1) if not Path(parts[at].strip()).exists() else ()
        end = next((end for end in ends if Path(",".join(parts[at:end]).strip()).exists()), at + 1)
        yield ",".join(parts[at:end])
        at = end


def as_value(text: str) -> Any:
    """The value of `key=value` as Hydra reads it: YAML, except that 1e-3 is a number and `no` is text."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    key, _, value = text.partition("=")
    if value.lower() in _NO_TRUTH_VALUES:
        return value
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore[index,call-overload]
    except YAMLError as error:
        raise ConfigError(f"{text} cannot be read. Write a list as [a,b].", key=key) from error


def _listed(options: Iterable[str]) -> str:
    return ", ".join(f"{key}=" for key in options)


# With one of these keys, the command line composes its own configuration.
_COMPOSES = ("experiment", "model", "model_type")


def job_of_stored_config(overrides: Sequence[str]) -> str | None:
    """The job of a command line, if it names a checkpoint and nothing to compose; else None."""
    said = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    section = _checkpoint_section(said.get("job_type", ""))
    if not section or any(key in said for key in _COMPOSES):
        return None
    return said["job_type"] if any(said.get(f"{section}.{key}") for key in PATH_KEYS) else None


def with_checkpoint_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """Rewrite the model and the prompts of a job as overrides: `eval runs/a` as `eval eval.checkpoint_path=runs/a`.

    A word is everything that isn't an override. The first one names the model, unless a key does. In `generate`, the
    others are prompts, and those of `--prompt` with them.

    Raises:
        ConfigError: several models are named, or prompts are given as words and as `generation.prompts`.
    """
    said = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    job = said.get("job_type", "")
    section = _checkpoint_section(job)
    if not section:
        return tuple(overrides)
    key = f"{section}.{PATH_KEYS[0]}"
    by_key = [value for path in PATH_KEYS if (value := said.get(f"{section}.{path}"))]
    is_named = bool(by_key) or any(said.get(name) for name in MODEL_KEYS)
    has_prompts = job in JOBS_WITH_PROMPTS
    named, prompts, others = [], [], []
    for text in overrides:
        if (prompt := prompt_in(text)) is not None:
            prompts.append(prompt)
        elif text.partition("=")[0] in MODEL_KEYS and "=" in text:
            named.append(text.partition("=")[2])
            others.append(f"{key}={named[-1]}")
        elif not _is_word(text):
            others.append(text)
        elif has_prompts and (is_named or named):
            prompts.append(text)
        else:
            named.append(text)
            others.append(f"{key}={text}")
    if len(named) > 1 or (named and by_key):
        given = " and ".join([*named, *by_key])
        raise ConfigError(f"xlm {job} takes one checkpoint, but was given {given}.", key="checkpoint")
    is_text = bool(named) and len(named[0].split()) > 1 and "/" not in named[0]
    if has_prompts and is_text and not _is_there(named[0]):
        raise ConfigError(
            f"There is no model {named[0]!r}. The first word names the model, the others are prompts: "
            f"xlm {job} runs/mine {named[0]!r}. With experiment=…, give prompts by --prompt.",
            key="checkpoint",
        )
    if not prompts:
        return tuple(others)
    if said.get(_PROMPTS) or said.get("generation.prompt_file"):
        raise ConfigError(
            f"The prompt {prompts[0]!r} is a word, and {_PROMPTS} or generation.prompt_file is given too. "
            "Use only one of them.",
            key=_PROMPTS,
        )
    return (*others, f"{_PROMPTS}=[{','.join(quote(literal(prompt)) for prompt in prompts)}]")


def _checkpoint_section(job: str) -> str:
    """The section with the options of a job that loads a trained model; empty for other jobs."""
    schema = SECTIONS_OF_JOBS.get(job)
    return schema.section if schema is not None and schema.section in CHECKPOINT_SECTIONS else ""


def named_model(cfg: Any, job: str) -> str | None:
    """The path or hub id of the model in the configuration of a job; None if the job finds it by the run's name."""
    options = cfg.get(_checkpoint_section(job)) or {}
    return next((str(options[key]) for key in PATH_KEYS if options.get(key)), None)


_PROMPTS = "generation.prompts"
_OVERRIDE = re.compile(r"(~|\+{0,2})[\w.@:/-]+=.*|~[\w.@:/-]+", re.DOTALL)


def _is_word(text: str) -> bool:
    """Whether an argument is not an override, or an existing path that looks like one (`runs/a,seed=1`)."""
    if text.startswith("~/"):
        return True
    return _OVERRIDE.fullmatch(text) is None or ("/" in text.partition("=")[0] and _is_there(text))


def _is_there(name: str) -> bool:
    """Whether a name is an existing path, or that of a run below `runs/`."""
    return Path(name).exists() or (runs_folder() / name).exists()


def run_of_model(name: str) -> str:
    """The folder of a run, also if the name is that of its weights file or of its folder of checkpoints."""
    path = Path(name)
    if path.suffix in (".ckpt", ".safetensors") and path.exists():
        path = path.parent
    return str(path.parent) if path.name == "checkpoints" and path.is_dir() else str(path) if path.exists() else name

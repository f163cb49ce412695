"""Reads the command line before Hydra: the short form of jobs, misspelled flags, the folder of a sweep."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from xlm.commands import Job, find_job, job_names, named_job
from xlm.commands.prompt_words import FLAG, JOBS, as_prompt, join_prompts, prompt_in
from xlm.commands.words import with_checkpoint_key
from xlm.compose.naming import TRAINS, named_by
from xlm.compose.overrides import quote, with_optional_sections
from xlm.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@dataclass(frozen=True)
class Arguments:
    """A parsed command line: overrides, Hydra's flags, and `--config-dir` folders.

    `multirun` (`-m`) sweeps over the overrides; `shows_only` (`--cfg`) prints a configuration without running.
    `swept` are the keys with several values.
    """

    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    config_dirs: tuple[Path, ...]
    multirun: bool
    shows_only: bool
    swept: tuple[str, ...] = ()


def with_job_type(overrides: Sequence[str], jobs: Sequence[Job]) -> tuple[str, ...]:
    """`train a=b` as `job_type=train a=b`; UnknownJobError for a word or job_type= that is not a job."""
    words = [text for text in overrides if text.isidentifier()]
    if words and (words[0] == overrides[0] or words[0] in job_names(jobs)):
        if any(text.startswith("job_type=") for text in overrides):
            raise ConfigError(f"Both '{words[0]}' and job_type= name a job. Use only one of them.", key="job_type")
        at = list(overrides).index(words[0])
        overrides = [*overrides[:at], f"job_type={words[0]}", *overrides[at + 1 :]]
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "job_type" and value.isidentifier():
            find_job(value, jobs)
    return tuple(overrides)


def parse_arguments(args: Sequence[str], jobs: Sequence[Job] = ()) -> Arguments:
    """Parse the command line; ConfigError for an unknown flag, UnknownJobError for an unknown job."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    args = _checked(join_prompts(args), parser, named_job(args, jobs))
    flags, overrides = _apart(args, parser)
    parsed = parser.parse_args(list(flags))
    config_dirs = (Path(parsed.config_dir).resolve(),) if parsed.config_dir else ()
    multirun = bool(parsed.multirun)
    overrides = with_optional_sections(with_checkpoint_key(with_job_type(overrides, jobs)), multirun)
    if not (multirun or parsed.cfg or parsed.info or parsed.hydra_help or parsed.run) and _has_plugin(overrides):
        # Hydra has launchers and sweepers only in its sweeps: this is one of a single run.
        multirun, flags = True, (*flags, "--multirun")
    parsed_overrides = _parsed(overrides) if multirun else {}
    return Arguments(
        overrides,
        flags,
        config_dirs,
        multirun,
        shows_only=parsed.cfg is not None,
        swept=tuple(key for key, override in parsed_overrides.items() if override.is_sweep_override()),
    )


def _checked(args: Sequence[str], parser: ArgumentParser, job: str) -> list[str]:
    """The arguments, with a text that begins with a dash as a prompt; ConfigError for flags that the job lacks."""
    takes_prompts = job in JOBS
    checked = []
    for arg in args:
        # argparse would read --experiment= as an abbreviation of another flag.
        if arg.startswith("-") and arg.partition("=")[0] not in parser._option_string_actions:
            if prompt_in(arg) is not None:
                if not takes_prompts:
                    raise ConfigError(f"{FLAG} is for these jobs: {', '.join(JOBS)}. xlm {job} has none.", key=FLAG)
            elif takes_prompts and len(arg.split()) > 1:
                arg = as_prompt(arg)
            else:
                bare = arg.lstrip("-")
                hint = f"Overrides are written without dashes: {bare}" if "=" in bare else "See xlm --help."
                hint = f"To use it as a prompt: {FLAG} '{arg}'" if takes_prompts and "=" not in bare else hint
                raise ConfigError(f"Unknown option '{arg}'. {hint}", key=arg)
        checked.append(arg)
    return checked


def _has_plugin(overrides: Sequence[str]) -> bool:
    """Whether a launcher or a sweeper other than Hydra's basic ones is chosen."""
    chosen = dict(text.partition("=")[::2] for text in overrides)
    return any(chosen.get(f"hydra/{group}", "basic") != "basic" for group in ("launcher", "sweeper"))


def _parsed(overrides: Sequence[str]) -> dict[str, Override]:
    """The overrides by key; empty if one cannot be parsed, which Hydra will report."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        found = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException:
        return {}
    return {str(override.key_or_group): override for override in found}


def _apart(args: Sequence[str], parser: ArgumentParser) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Separate Hydra's flags with their values from the overrides between them."""
    flags: list[str] = []
    overrides: list[str] = []
    option = None  # the preceding flag, which may need a value
    for arg in args:
        is_value = option is not None and (
            option.nargs is None or (option.nargs == "?" and arg in (option.choices or ()))
        )
        is_flag = not is_value and arg.startswith("-") and prompt_in(arg) is None
        option = parser._option_string_actions.get(arg) if is_flag else None
        (flags if is_flag or is_value else overrides).append(arg)
    return tuple(flags), tuple(overrides)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message[:1].upper()}{message[1:]}. See xlm --help.")


def with_sweep_names(arguments: Arguments) -> Arguments:
    """The arguments with `job_name=x` as the folder of a sweep's runs, named by what it varies: `x/seed=1`."""
    plain = _parsed(arguments.overrides) if arguments.multirun else {}
    name, job = plain.get("job_name"), plain.get("job_type")
    if name is None or name.is_sweep_override() or "paths.run_dir" in plain or not name.value():
        return arguments
    trains = job is None or job.value() in TRAINS
    if not named_by(arguments.swept, trains) and not (trains and _has_sweeper(arguments.overrides)):
        return arguments
    folder = str(name.value()).removesuffix("/")
    named = tuple(
        f"job_name={quote(f'{folder}/${{swept_settings:}}')}" if text == name.input_line else text
        for text in arguments.overrides
    )
    return replace(arguments, overrides=named)


def _has_sweeper(overrides: Sequence[str]) -> bool:
    """Whether a sweeper proposes values of its own, which are known only later."""
    return dict(text.partition("=")[::2] for text in overrides).get("hydra/sweeper", "grid") not in ("grid", "basic")

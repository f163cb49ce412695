"""Reads the command line before Hydra does: the job's short form, misspelt flags, sweeps into one folder."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from xlm.commands import Job, find_job, job_names
from xlm.commands.words import with_checkpoint_key
from xlm.compose.overrides import with_optional_sections
from xlm.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """What the command line says: overrides, Hydra's flags, and `--config-dir` folders.

    `multirun` (`-m`) sweeps over the overrides; `shows_only` (`--cfg`) prints a configuration and runs nothing.
    """

    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    config_dirs: tuple[Path, ...]
    multirun: bool
    shows_only: bool


def with_job_type(overrides: Sequence[str], jobs: Sequence[Job]) -> tuple[str, ...]:
    """`train a=b` as `job_type=train a=b`; UnknownJobError for a word, or a job_type=, that is no job."""
    words = [text for text in overrides if text.isidentifier()]
    if words and (words[0] == overrides[0] or words[0] in job_names(jobs)):
        if any(text.startswith("job_type=") for text in overrides):
            raise ConfigError(f"Both '{words[0]}' and job_type= name the job; one of them is enough.", key="job_type")
        at = list(overrides).index(words[0])
        overrides = [*overrides[:at], f"job_type={words[0]}", *overrides[at + 1 :]]
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "job_type" and value.isidentifier():
            find_job(value, jobs)
    return tuple(overrides)


def parse_arguments(args: Sequence[str], jobs: Sequence[Job] = ()) -> Arguments:
    """The parts of the command line; ConfigError for a flag that Hydra doesn't have, UnknownJobError for a job."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    for arg in args:
        # Not left to argparse, which takes --experiment= for the beginning of another flag.
        if arg.startswith("-") and arg.partition("=")[0] not in parser._option_string_actions:
            bare = arg.lstrip("-")
            hint = f"Overrides are written without dashes: {bare}" if "=" in bare else "See xlm --help."
            raise ConfigError(f"Unknown option '{arg}'. {hint}", key=arg)
    flags, overrides = _apart(args, parser)
    parsed = parser.parse_args(list(flags))
    config_dirs = (Path(parsed.config_dir).resolve(),) if parsed.config_dir else ()
    return Arguments(
        with_optional_sections(with_checkpoint_key(with_job_type(overrides, jobs)), bool(parsed.multirun)),
        flags,
        config_dirs,
        bool(parsed.multirun),
        shows_only=parsed.cfg is not None,
    )


def _apart(args: Sequence[str], parser: ArgumentParser) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hydra's flags with their values, and the overrides, which may stand between them."""
    flags: list[str] = []
    overrides: list[str] = []
    option = None  # the flag just before, which may want a value
    for arg in args:
        is_value = option is not None and (
            option.nargs is None or (option.nargs == "?" and arg in (option.choices or ()))
        )
        is_flag = not is_value and arg.startswith("-")
        option = parser._option_string_actions.get(arg) if is_flag else None
        (flags if is_flag or is_value else overrides).append(arg)
    return tuple(flags), tuple(overrides)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message[:1].upper()}{message[1:]}. See xlm --help.")


def check_sweep_names(arguments: Arguments) -> None:
    """ConfigError if a sweep's training runs would all go on in the folder of one job_name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    if not arguments.multirun:
        return
    try:
        overrides = OverridesParser.create().parse_overrides(list(arguments.overrides))
    except OverrideParseException:
        return  # Hydra will say so
    plain = {str(override.key_or_group): override for override in overrides}
    name, job = plain.get("job_name"), plain.get("job_type")
    trains = job is None or job.value() == "train"
    sweeps = any(override.is_sweep_override() for override in overrides)
    if trains and sweeps and name and not name.is_sweep_override() and "paths.run_dir" not in plain:
        raise ConfigError(
            f"job_name={name.value()} would be the folder of every run of this sweep, each going on with the last.\n"
            "Leave job_name out (each run is then named by its overrides), or sweep over it too.",
            key="job_name",
        )

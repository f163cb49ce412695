"""Runs a job through Hydra: finds models, composes, checks, and calls the job's function."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xlm.compose import register_resolvers
from xlm.compose.checks import check_config
from xlm.compose.load import CONFIG_MODULE, CONFIG_NAME
from xlm.compose.messages import FOREIGN_ERRORS, readable_errors, translate
from xlm.errors import ConfigError, XLMError
from xlm.external_models import Discovery, activate, discover
from xlm.jobs import BUILT_IN_JOBS, Job, custom_jobs, find_job

FULL_ERROR = "HYDRA_FULL_ERROR"


def run_job(args: Sequence[str]) -> int:
    """Run `xlm <args>` as a job, or answer Hydra's own flags (`--cfg job`, `--info`, `-m`); the exit code."""
    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    jobs, warnings = custom_jobs(found.models)
    args = with_job_type(args, jobs)
    overrides, config_dirs = _parse(args)
    _print_warnings([*found.warnings, *warnings])
    task = Task(found, jobs, config_dirs, overrides)
    task.prepare()
    try:
        with readable_errors(found, overrides), _arguments(args), _environ(FULL_ERROR, "1"):
            _hydra_main(task)
    except ValueError as error:
        # Hydra has no type of its own for flags and choices that don't go together.
        if error is task.error:
            raise
        raise ConfigError(str(error)) from error
    if isinstance(task.error, XLMError):
        raise task.error
    if task.error is not None:
        _print_traceback(task.error)
        return 1
    return 0


class Task:
    """What Hydra calls with a composed configuration; unpickled by a launcher's worker, it prepares that process."""

    def __init__(
        self, found: Discovery, jobs: Sequence[Job], config_dirs: Sequence[Path], overrides: Sequence[str]
    ) -> None:
        self.found = found
        self.jobs = tuple(jobs)
        self.config_dirs = tuple(config_dirs)
        self.overrides = tuple(overrides)
        self.full_error = os.environ.get(FULL_ERROR)
        self.error: Exception | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.prepare()

    def prepare(self) -> None:
        """Make models and resolvers known to this process."""
        activate(self.found.models, self.config_dirs)
        register_resolvers()

    def __call__(self, cfg: DictConfig) -> Any:
        """Check `cfg` and run its job; a single run keeps its error for the caller, a sweep's job raises it."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        try:
            with _environ(FULL_ERROR, self.full_error):
                return self._run(cfg, dict(hydra.runtime.choices))
        except Exception as error:  # whatever a job raises is shown once Hydra has tidied up
            self.error = (
                translate(error, self.found, self.overrides) if isinstance(error, FOREIGN_ERRORS) else error
            )
            if self.error is not error:
                self.error.__cause__ = error
            if hydra.mode == RunMode.MULTIRUN:
                raise self.error from self.error.__cause__
            return None

    def _run(self, cfg: DictConfig, choices: dict[str, Any]) -> Any:
        cfg.job_name = cfg.job_name  # from here on text, whatever Hydra still remembers later
        job = find_job(str(cfg.job_type), self.jobs)
        if job.name in BUILT_IN_JOBS and job.name != "name":
            check_config(cfg, choices)
        return job.load()(cfg)


def with_job_type(args: Sequence[str], jobs: Sequence[Job]) -> list[str]:
    """`train a=b` as `job_type=train a=b`; UnknownJobError for a first word, or a job_type=, that is no job."""
    args = list(args)
    if args[0][:1] not in "-+~" and "=" not in args[0]:
        if any(arg.startswith("job_type=") for arg in args[1:]):
            raise ConfigError(
                f"Both '{args[0]}' and job_type= name the job; one of them is enough.", key="job_type"
            )
        args[0] = f"job_type={args[0]}"
    for arg in args:
        key, _, value = arg.partition("=")
        if key == "job_type" and value.replace("_", "").isalnum():
            find_job(value, jobs)
    return args


def _parse(args: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The overrides and the `--config-dir` folders among `args`; ConfigError for a flag that Hydra doesn't have."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    for arg in args:
        # Not left to argparse, which takes --experiment= for the beginning of another flag.
        if arg.startswith("-") and arg.partition("=")[0] not in parser._option_string_actions:
            bare = arg.lstrip("-")
            hint = f"Overrides are written without dashes: {bare}" if "=" in bare else "See xlm --help."
            raise ConfigError(f"Unknown option '{arg}'. {hint}", key=arg)
    parsed, unknown = parser.parse_known_args(list(args))
    config_dirs = [Path(parsed.config_dir).resolve()] if parsed.config_dir else []
    return [*parsed.overrides, *unknown], config_dirs


def _hydra_main(task: Task) -> None:
    import hydra

    hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(task)()


@contextmanager
def _arguments(args: Sequence[str]) -> Iterator[None]:
    """Hydra, and the processes that Lightning starts for DDP, read sys.argv; its first entry stays the program."""
    before = sys.argv
    sys.argv = [before[0], *args]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _environ(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for a while (None: unset it)."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _print_warnings(warnings: Sequence[str]) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for warning in warnings:
            print(f"Warning: {warning}", file=sys.stderr)


def _print_traceback(error: Exception) -> None:
    """The traceback from the job on; HYDRA_FULL_ERROR=1 shows the frames before it too."""
    frames = error.__traceback__
    if os.environ.get(FULL_ERROR) != "1":
        for _ in range(2):  # Task.__call__ and Task._run
            frames = frames.tb_next if frames and frames.tb_next else frames
    traceback.print_exception(type(error), error, frames)

"""Runs a job through Hydra: finds models, composes, checks, and calls the job's function."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xlm.cli.arguments import parse_arguments, with_sweep_names
from xlm.cli.optuna_sweeper import OptunaSweeper
from xlm.cli.sweeps import GridSweeper, register
from xlm.commands import BUILT_IN_JOBS, Job, custom_jobs, exit_code, find_job, standalone_job
from xlm.commands.words import job_of_stored_config, named_model, run_standalone
from xlm.compose import late_values_as_text, register_resolvers
from xlm.compose.checks import check_config
from xlm.compose.load import CONFIG_MODULE, CONFIG_NAME, composed_again
from xlm.compose.messages import FOREIGN_ERRORS, is_foreign, readable_error, translate
from xlm.compose.naming import checked_job_name
from xlm.compose.own_data import AUTOMATIC
from xlm.errors import ConfigError, TrainingInterrupted, XLMError, printable
from xlm.external_models import Discovery, activate, discover

FULL_ERROR = "HYDRA_FULL_ERROR"
AS_WRITTEN = (
    "This is the configuration as it is written down. With data.text=, the start of the run chooses sizes, steps and\n"
    "the network to fit the data, prints them, and keeps the whole configuration in config.yaml of the run."
)


def run_job(args: Sequence[str]) -> int:
    """Run `xlm <args>` as a job, or handle Hydra's flags (`--cfg job`, `--info`, `-m`); returns the exit code."""
    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    jobs, warnings = custom_jobs(found.models)
    if (standalone := standalone_job(args, jobs)) is not None:
        activate(found.models, folders=found.folders)
        return run_standalone(standalone, args)
    arguments = with_sweep_names(parse_arguments(args, jobs))
    _print_warnings([*found.warnings, *warnings])
    task = Task(found, jobs, arguments.config_dirs, arguments.overrides, arguments.swept)
    task.prepare()
    if job := job_of_stored_config(arguments.overrides):
        if arguments.multirun or arguments.shows_only:
            raise ConfigError(
                f"xlm {job} uses the checkpoint's own configuration, which is in the config.yaml of its run, and runs "
                "once. For -m and --cfg give experiment=… too.",
                key="-m" if arguments.multirun else "--cfg",
            )
        flags = {flag.partition("=")[0] for flag in arguments.flags if flag.startswith("-")}
        if flags <= {"--config-dir", "-cd"}:
            return task.run_stored(job)
    if arguments.shows_only and f"{AUTOMATIC}=true" in arguments.overrides:
        print(AS_WRITTEN, file=sys.stderr)
    argv = [*arguments.overrides, *arguments.flags]
    shown = late_values_as_text() if arguments.shows_only else nullcontext()
    try:
        with _arguments(argv), _environ(FULL_ERROR, "1"), shown:
            _hydra_main(task)
    except (*FOREIGN_ERRORS, ValueError) as error:
        # A ValueError from a job is a bug; before the job starts, Hydra raises it for conflicting flags.
        if task.started and not isinstance(error, FOREIGN_ERRORS):
            raise
        raise translate(error, found, arguments.overrides) from error
    except KeyboardInterrupt:
        if task.error is None:
            raise
    if task.error is not None:
        raise task.error
    return task.code


class Task:
    """What Hydra calls with a composed configuration; unpickling it in a launcher's worker prepares that process."""

    def __init__(
        self,
        found: Discovery,
        jobs: Sequence[Job],
        config_dirs: Sequence[Path],
        overrides: Sequence[str],
        swept: Sequence[str] = (),
    ) -> None:
        self.found = found
        self.jobs = tuple(jobs)
        self.config_dirs = tuple(config_dirs)
        self.overrides = tuple(overrides)
        self.swept = tuple(swept)
        self.full_error = os.environ.get(FULL_ERROR)
        self.started = False
        self.error: Exception | None = None
        self.code = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.prepare()

    def prepare(self) -> None:
        """Register models, resolvers and sweepers in this process."""
        activate(self.found.models, self.config_dirs, self.found.folders)
        register_resolvers(self.swept)
        register(GridSweeper)
        register(OptunaSweeper)

    def __call__(self, cfg: DictConfig) -> Any:
        """Check `cfg` and run its job. User errors are raised in a sweep, and kept in `error` in a single run."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        self.started = True
        hydra = HydraConfig.get()
        choices = {str(group): member for group, member in hydra.runtime.choices.items()}
        is_sweep = hydra.mode == RunMode.MULTIRUN
        try:
            with _environ(FULL_ERROR, self.full_error):
                return self._run(cfg, choices, [str(text) for text in hydra.overrides.task])
        except TrainingInterrupted as stop:
            self.error = stop
            if is_sweep:
                # Hydra would start the next run.
                raise KeyboardInterrupt from stop
            return None
        except Exception as error:
            readable = readable_error(error, self.found, self.overrides, choices)
            if readable is None:
                if is_sweep:
                    traceback.print_exc()
                raise
            if is_sweep:
                print(f"{readable}\nThis run ends here: {cfg.job_name}.", file=sys.stderr, flush=True)
                raise readable from readable.__cause__
            # Raised after Hydra has returned: Hydra would print its own line first.
            self.error = readable
            return None

    def run_stored(self, name: str) -> int:
        """Run a job with the configuration of its checkpoint, and return the exit code; raises user errors."""
        from xlm.inference.stored_config import stored_config

        try:
            return exit_code(find_job(name, self.jobs).load()(stored_config(self.overrides, name)))
        except Exception as error:
            if not isinstance(error, XLMError) and not is_foreign(error):
                raise
            readable = translate(error, self.found, self.overrides)
            raise readable from (None if readable is error else error)

    def _run(self, cfg: DictConfig, choices: dict[str, Any], overrides: Sequence[str]) -> Any:
        cfg.job_name = checked_job_name(cfg.job_name)  # text from here on
        job = find_job(str(cfg.job_type), self.jobs)
        if job.name in BUILT_IN_JOBS and job.name != "name":
            cfg = composed_again(cfg, overrides)
            check_config(cfg, choices)
        if model := named_model(cfg, job.name):
            from xlm.inference.folders import write_beside_path

            write_beside_path(cfg, model, self.overrides)
        result = job.load()(cfg)
        self.code = self.code or exit_code(result)
        return result


def _hydra_main(task: Task) -> None:
    import hydra

    from xlm.cli.one_composition import one_composition

    with one_composition():
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(task)()


@contextmanager
def _arguments(args: Sequence[str]) -> Iterator[None]:
    """Set sys.argv, which Hydra and Lightning's DDP processes read; its first entry stays the program."""
    before = sys.argv
    sys.argv = [before[0], *args]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _environ(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable inside a block (None: unset it)."""
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
            print(printable(f"Warning: {warning}"), file=sys.stderr)

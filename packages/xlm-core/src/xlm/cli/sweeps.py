"""Sweeps over a grid of values: every run is started, and the end names those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlm.errors import ConfigError, SweepError, as_line

# Hydra takes plugins only from this package.
PACKAGE = "hydra_plugins.xlm"


def register(plugin: type[Plugin]) -> None:
    """Make a class known to Hydra as `hydra_plugins.xlm.<its name>`."""
    plugins = Plugins.instance()
    plugins.register(plugin)
    plugins.class_name_to_class[f"{PACKAGE}.{plugin.__name__}"] = plugin


class Recording(Launcher):
    """Passes jobs to another launcher and keeps what they return.

    Failed jobs are not raised here: Hydra's sweeper would raise the first of a batch, and start no further batch.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.returned: list[JobReturn] = []

    def setup(self, **kwargs: Any) -> None:
        self.launcher.setup(**kwargs)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; returns those that succeeded."""
        try:
            done = list(self.launcher.launch(job_overrides, initial_job_idx))
        except Exception as error:
            readable = _of_submitit(error)
            if readable is None:
                raise
            raise readable from error
        self.returned.extend(done)
        return [job for job in done if job.status is JobStatus.COMPLETED]

    def raise_failures(self) -> None:
        """SweepError if a job failed, with the name of its run and the first line of its message."""
        failed = [job for job in self.returned if job.status is not JobStatus.COMPLETED]
        if len(failed) == len(self.returned) == 1:
            raise failed[0]._return_value
        if failed:
            raise SweepError({run_name(job): _first_line(job._return_value) for job in failed}, len(self.returned))


class GridSweeper(Sweeper):
    """Hydra's own sweeper, but all runs are started although some fail. Raises SweepError at the end."""

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        # Hydra executes the modules of its plugins when it registers them; only then are their classes final.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        self.grid = BasicSweeper(max_batch_size, params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.grid.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.grid.launcher is not None
        self.grid.launcher = self.recording = Recording(self.grid.launcher)

    def sweep(self, arguments: list[str]) -> Any:
        returned = self.grid.sweep(arguments)
        self.recording.raise_failures()
        return returned


def run_name(job: JobReturn) -> str:
    """The name of a job's run; its overrides if it has none, since its configuration is wrong."""
    try:
        return of_run(job, "job_name")
    except OmegaConfBaseException:
        return " ".join(job.overrides or ())


def of_run(job: JobReturn, key: str) -> str:
    """A value of a job's configuration, as text."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = job.hydra_cfg  # type: ignore[assignment]
    try:
        return str(OmegaConf.select(job.cfg, key))  # type: ignore[arg-type]
    finally:
        HydraConfig.instance().cfg = before


def _of_submitit(error: Exception) -> ConfigError | None:
    """The same in a sentence, if the launcher of SLURM could not submit a job or lost one; None otherwise."""
    if "srun" in str(error) and type(error) is RuntimeError:
        text = (
            "there is no srun on the PATH, so jobs cannot be submitted from here. Use a machine of the cluster, or "
            "hydra/launcher=submitit_local, which runs the jobs on this one."
        )
    elif type(error).__module__.startswith("submitit."):
        text = f"{_first_line(error).rstrip('.')}. Jobs that were submitted continue; `xlm runs` lists their runs."
    else:
        return None
    return ConfigError(f"hydra/launcher: {text}", key="hydra/launcher")


def _first_line(error: BaseException) -> str:
    return as_line((str(error).splitlines() or [type(error).__name__])[0])

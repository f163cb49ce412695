"""Sweeps in which Optuna chooses the values: a study that the same command continues."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper

from xlm.cli.sweeps import Recording, of_run
from xlm.errors import ConfigError, did_you_mean, nearest_names

if TYPE_CHECKING:
    import optuna
    from hydra.core.override_parser.types import Override
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

_SQLITE = "sqlite:///"


class OptunaSweeper(Sweeper):
    """Runs `n_trials` trials; those of earlier starts of the same study count.

    A trial that was running when an earlier start ended gets the same values again, so its run continues from its own
    checkpoint. A trial with a failed run, or with a metric that is not finite, has failed.

    Args:
        n_trials: trials of the study, over all starts.
        n_jobs: trials that the launcher runs at the same time.
        metric, mode: what to make smallest (`min`) or largest (`max`): its value at the end of training.
        storage: a URL of Optuna; a sqlite file is made if needed.
        study_name: tells studies in one storage apart; None: made of the command.
        sampler, sampler_options: a class of `optuna.samplers` and its arguments.
        seed: of the sampler.
        params: further values and ranges, as on the command line.

    Raises:
        ConfigError: bad options, no ranges, an unknown metric, or a study that another process is running.
        SweepError: some runs failed.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        metric: str,
        mode: str,
        storage: str,
        study_name: str | None,
        sampler: str,
        sampler_options: Mapping[str, Any] | None,
        seed: int,
        params: Mapping[str, Any] | None,
    ) -> None:
        self.n_trials, self.n_jobs = _count("n_trials", n_trials), _count("n_jobs", n_jobs)
        self.metric, self.mode = metric, mode
        self.storage, self.study_name = storage, study_name
        self.sampler, self.sampler_options, self.seed = sampler, dict(sampler_options or {}), seed
        self.params = dict(params or {})
        if mode not in ("min", "max"):
            raise ConfigError(f"hydra.sweeper.mode is {mode}, and must be min or max.", key="hydra.sweeper.mode")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.recording = Recording(
            Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        )

    def sweep(self, arguments: list[str]) -> None:
        optuna = _optuna()
        texts = [f"{key}={value}" for key, value in self.params.items()] + arguments
        assert self.hydra_context is not None
        overrides = OverridesParser.create(self.hydra_context.config_loader).parse_overrides(texts)
        space = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        if not space:
            raise ConfigError(
                "hydra/sweeper=optuna needs values to choose from, for example "
                "optimizer.lr=tag(log,interval(1e-4,1e-2)) or model.dropout=0,0.1.",
                key="hydra.sweeper.params",
            )
        name = self.study_name or _study_name(fixed, space, self.metric)
        with _only_one(self.storage, name):
            study = optuna.create_study(
                study_name=name, storage=self.storage, load_if_exists=True,
                direction="minimize" if self.mode == "min" else "maximize",
            )  # fmt: skip
            self._run(study, space, fixed)
        self._report(study)
        self.recording.raise_failures()

    def _run(self, study: optuna.Study, space: dict[str, Any], fixed: Sequence[str]) -> None:
        from optuna.trial import TrialState

        started = [(t.number, t.params) for t in study.get_trials(states=(TrialState.RUNNING,))]
        for number, values in started:
            if values.keys() != space.keys():  # stopped while it was drawn
                study.tell(number, state=TrialState.FAIL)
        started = [trial for trial in started if trial[1].keys() == space.keys()]
        while started or len(study.trials) < self.n_trials:
            batch = started[: self.n_jobs]
            started = started[self.n_jobs :]
            while len(batch) < self.n_jobs and len(study.trials) < self.n_trials:
                number, values = self._draw(study, space)
                before = _value_of_equal_trial(study, values)
                if before is None:
                    batch.append((number, values))
                else:
                    study.tell(number, before)
            if batch:
                self._launch(study, batch, fixed)

    def _draw(self, study: optuna.Study, space: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The number and the values of a new trial; a continued study draws what an undisturbed one would."""
        study.sampler = self._sampler(len(study.trials))
        trial = study.ask(space)
        return trial.number, trial.params

    def _launch(self, study: optuna.Study, batch: Sequence[tuple[int, dict[str, Any]]], fixed: Sequence[str]) -> None:
        from optuna.trial import TrialState

        overrides = [[*fixed, *(f"{key}={_as_text(v)}" for key, v in values.items())] for _, values in batch]
        before = len(self.recording.returned)
        if not before:  # a mistake in the command shows before the first run starts
            self.validate_batch_is_legal(overrides)
        self.recording.launch(overrides, initial_job_idx=batch[0][0])
        for (number, _), job in zip(batch, self.recording.returned[before:], strict=True):
            value = self._value(job) if job.status is JobStatus.COMPLETED else math.nan
            if math.isfinite(value):
                study.tell(number, value)
            else:
                study.tell(number, state=TrialState.FAIL)

    def _value(self, job: JobReturn) -> float:
        """The metric that a run returned; of a run that was complete already, what its folder records."""
        from xlm.reports.run import read_run

        returned = job.return_value if isinstance(job.return_value, dict) else {}
        if self.metric in returned:
            return float(returned[self.metric])
        measured = read_run(Path(of_run(job, "paths.run_dir")), "").measured
        if self.metric not in measured:
            names = sorted({*returned, *measured})
            hint = did_you_mean(nearest_names(self.metric, names, 1))
            raise ConfigError(
                f"hydra.sweeper.metric is '{self.metric}', but the run has no such metric. "
                f"It has: {', '.join(names) or 'none'}. {hint}".rstrip(),
                key="hydra.sweeper.metric",
            )
        return measured[self.metric].value

    def _sampler(self, number: int) -> Any:
        from optuna import samplers

        kind = getattr(samplers, self.sampler, None)
        if not (inspect.isclass(kind) and issubclass(kind, samplers.BaseSampler)):
            names = [name for name in samplers.__all__ if name.endswith("Sampler") and name != "BaseSampler"]
            hint = did_you_mean(nearest_names(self.sampler, names, 1))
            raise ConfigError(
                f"hydra.sweeper.sampler is '{self.sampler}', and must be one of: {', '.join(names)}. {hint}".rstrip(),
                key="hydra.sweeper.sampler",
            )
        seed = {"seed": self.seed + number} if "seed" in inspect.signature(kind).parameters else {}
        try:
            return kind(**(seed | self.sampler_options))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"hydra.sweeper.sampler_options: {error}", key="hydra.sweeper.sampler_options") from error

    def _report(self, study: optuna.Study) -> None:
        from optuna.trial import TrialState

        complete = study.get_trials(states=(TrialState.COMPLETE,))
        print(f"Study {study.study_name}: {len(study.trials)} trials, {len(complete)} complete. Kept in {self.storage}")
        if complete:
            values = " ".join(f"{key}={_as_text(value)}" for key, value in study.best_params.items())
            print(f"Best {self.metric}: {study.best_value:.6g} with {values}")


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ConfigError(
            "hydra/sweeper=optuna needs the package optuna: pip install 'xlm-core[optuna]'.", key="hydra/sweeper"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"hydra.sweeper.{name} is {value}, and must be at least 1.", key=f"hydra.sweeper.{name}")
    return value


def _distribution(override: Override) -> Any:
    """What Optuna draws from, for `a,b`, `choice(…)`, `range(…)` and `interval(…)`, which may be tagged `log`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not override.is_interval_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    interval: Any = override.value()
    is_log = "log" in interval.tags
    try:
        if isinstance(interval.start, int) and isinstance(interval.end, int):
            return IntDistribution(interval.start, interval.end, log=is_log)
        return FloatDistribution(float(interval.start), float(interval.end), log=is_log)
    except ValueError as error:
        key = override.get_key_element()
        raise ConfigError(f"{override.input_line}: {error}", key=key) from error


def _as_text(value: Any) -> str:
    """A value as an override; six digits of a float are enough to tell runs apart."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value_of_equal_trial(study: optuna.Study, values: Mapping[str, Any]) -> float | None:
    """The result of an earlier trial with these values, which is the same run."""
    from optuna.trial import TrialState

    equal = (trial for trial in study.get_trials(states=(TrialState.COMPLETE,)) if trial.params == values)
    return next((trial.value for trial in equal), None)


def _study_name(fixed: Sequence[str], space: Mapping[str, Any], metric: str) -> str:
    """Equal for equal commands, whatever their order and number of trials."""
    settings = sorted(text for text in fixed if not text.lstrip("+").startswith("hydra"))
    ranges = sorted(f"{key}={distribution!r}" for key, distribution in space.items())
    digest = hashlib.sha256("\n".join([*settings, *ranges, metric]).encode()).hexdigest()[:8]
    return f"{'+'.join(sorted(space))}-{digest}"


@contextlib.contextmanager
def _only_one(storage: str, name: str) -> Iterator[None]:
    """One process at a time for a study in a sqlite file; ConfigError if another one is running it."""
    if not storage.startswith(_SQLITE):
        yield
        return
    from filelock import FileLock, Timeout

    path = Path(storage.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.{hashlib.sha256(name.encode()).hexdigest()[:8]}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"Another process is running the study {name} in {path}. Wait until it ends, or set "
            "hydra.sweeper.study_name.",
            key="hydra.sweeper.study_name",
        ) from error
    try:
        yield
    finally:
        lock.release()

"""The jobs that `xlm job_type=…` runs: core's own, by name, and those that models bring in commands.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xlm.errors import ConfigError, UnknownJobError
from xlm.external_models import ModelPackage, load_commands
from xlm.utils.imports import get_function


@dataclass(frozen=True)
class Job:
    """One job: `target` is the dotted path of its function `fn(cfg)`, `source` the model that brings it."""

    name: str
    target: str
    help: str
    source: str = "xlm"

    def load(self) -> Callable[[Any], Any]:
        """Import the function; BadTargetError says why if that fails."""
        return get_function(self.target, key=f"job_type={self.name}")


BUILT_IN_JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job("train", "xlm.jobs.train.run", "train a model, validate on the way, test at the end"),
        Job("eval", "xlm.jobs.eval.run", "score a trained model on a split"),
        Job("generate", "xlm.jobs.generate.run", "let a trained model write, to a file of JSON lines"),
        Job("extract_checkpoint", "xlm.jobs.exchange.extract", "write a checkpoint's model as a folder to share"),
        Job("push_to_hub", "xlm.jobs.exchange.push", "upload a checkpoint's model to the Hugging Face hub"),
        Job("plan", "xlm.jobs.plan.run", "say what a run would take: parameters, memory, operations, time, disk"),
        Job("sweep_sampler", "xlm.jobs.sweep_sampler.run", "try many settings of a sampler: quality against cost"),
        Job("prepare_data", "xlm.jobs.prepare_data.run", "download or generate the data and fill the cache"),
        # Reads the configurations of the runs: the command line takes it before Hydra does.
        Job(
            "trace", "xlm.jobs.trace.run_trace", "show how trained models write, side by side: xlm trace runs/a runs/b"
        ),
        # So does this one.
        Job("lm_eval", "xlm.jobs.lm_eval.run_lm_eval", "run tasks of lm-evaluation-harness on a trained model"),
        # Composes its configurations itself: the command line takes it before Hydra does.
        Job("check", "xlm.cli.check.run_check", "prove that a model obeys the contract: xlm check NAME"),
        # Reads files of texts: the command line takes it before Hydra does.
        Job(
            "text_quality",
            "xlm.jobs.text_quality.run_text_quality",
            "judge generated texts: perplexity beside entropy, lengths, repetition and what was copied",
        ),
        # Neither do these two: they read what runs wrote.
        Job("runs", "xlm.cli.runs.print_runs", "list the runs of a folder, by default runs/"),
        Job("report", "xlm.cli.report.write_report", "compare runs on one page: xlm report runs=[a,b]"),
        Job("name", "xlm.jobs.name.run", "print the name of the run, which is its folder under runs/"),
    )
}


def custom_jobs(models: Mapping[str, ModelPackage]) -> tuple[list[Job], list[str]]:
    """Every job that `models` bring, and what was wrong: unreadable files, names that core's jobs keep."""
    from xlm.errors import ModelsFileError

    jobs: list[Job] = []
    warnings: list[str] = []
    for model in models.values():
        try:
            commands = load_commands(model)
        except ModelsFileError as error:
            warnings.append(str(error))
            continue
        for name, target in commands.items():
            if name in BUILT_IN_JOBS:
                warnings.append(f"Model '{model.name}' brings a job '{name}'; the built-in job of that name is used.")
            else:
                jobs.append(Job(name, target, f"job of model '{model.name}'", model.name))
    return jobs, warnings


def job_names(custom: Iterable[Job] = ()) -> list[str]:
    """All names that `job_type` may take, sorted."""
    return sorted({*BUILT_IN_JOBS, *(job.name for job in custom)})


def find_job(job_type: str, custom: Iterable[Job] = ()) -> Job:
    """The job of that name, core's own first; UnknownJobError, or ConfigError if models disagree about it."""
    if job_type in BUILT_IN_JOBS:
        return BUILT_IN_JOBS[job_type]
    custom = list(custom)
    named = [job for job in custom if job.name == job_type]
    if not named:
        raise UnknownJobError(job_type, job_names(custom))
    if len({job.target for job in named}) > 1:
        claims = ", ".join(f"{job.target} (model '{job.source}')" for job in named)
        raise ConfigError(f"Several models bring a job '{job_type}': {claims}.", key="job_type")
    return named[0]

"""`xlm --help` lists jobs, kinds of overrides and models; `xlm JOB --help` lists the options of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from xlm.commands import BUILT_IN_JOBS, Job, custom_jobs
from xlm.external_models import Discovery, activate, discover

_OVERRIDES = """\
A run is described by a configuration. Overrides change any part of it:
  experiment=star_easy_arlm              choose data, model and settings together
  experiment=[star_easy_arlm,mine]       combine experiments; the later ones win
  datamodule=star_hard model_type=arlm model=tiny_arlm
                                         choose the parts one by one
  trainer.max_steps=500 seed=7           set values
  +predictor.top_k=5                     add a value that is not there yet (++ adds or replaces)
  ~datamodule.dataset_managers.train     remove a part
  debug=overfit                          overfit one batch, as a first check (or small_data, print_predictions)
  trainer_strategy=ddp trainer.devices=2
                                         use several processes
  job_name=mine                          name the run and its folder runs/mine; the same name continues that run
  -m seed=1,2,3                          start one run per value
  --cfg job --resolve                    print the configuration without running
  --info defaults                        print the files behind it; --hydra-help prints Hydra's options"""


_WIDTH = 34


def print_help(words: Sequence[str] = ()) -> int:
    """Print the help of the job among the words, or the general help; returns 0, since it shows discovery problems."""
    names = [word.removeprefix("job_type=") for word in words]
    job = next((BUILT_IN_JOBS[name] for name in names if name in BUILT_IN_JOBS), None)
    if job is None:
        found = discover(os.environ, Path.cwd())
        job = next((job for job in custom_jobs(found.models)[0] if job.name in names), None)
        if job is None:
            print(help_text(found))
            return 0
        activate(found.models, folders=found.folders)
    print(job_help(job))
    return 0


def job_help(job: Job) -> str:
    """The help of a job: key, purpose, allowed values and default of each option, from the schemas that check it."""
    from xlm.utils.annotations import default_of, describe, options_in

    lines = [f"xlm {job.name}: {job.help}", "", f"Usage: xlm {job.name} {job.usage}".rstrip()]
    for schema in job.schemas:
        section = getattr(schema, "section", "")
        lines += ["", f"{schema.__doc__}".splitlines()[0]]
        # A schema's own options come before those that it shares with others.
        options = sorted(options_in(schema).values(), key=lambda each: each.name not in schema.__annotations__)
        for each in options:
            key = f"{section}.{each.name}" if section else each.name
            allowed = describe(each.annotation)
            lines += _option_lines(key, each.help, allowed, default_of(each))
    lines += ["", job.note] if job.note else []
    lines += ["", _OTHERS] if job.options and job.name != "train" and not job.is_standalone else []
    return "\n".join(lines)


_OTHERS = "xlm train --help lists the top-level options of a configuration; xlm --help shows how to set them."


def _option_lines(key: str, purpose: str, allowed: str, default: str) -> Iterator[str]:
    told = f"{purpose} ({allowed})" if default in ("", "null") else f"{purpose} ({allowed}) [{default}]"
    if len(key) > _WIDTH - 3:
        yield f"  {key}"
        key = ""
    yield f"  {key.ljust(_WIDTH - 2)}{told}"


def help_text(found: Discovery) -> str:
    """The general help, with the models that discovery `found`."""
    jobs, _ = custom_jobs(found.models)
    listed = [*BUILT_IN_JOBS.values(), *(job for job in jobs if job.name not in BUILT_IN_JOBS)]
    width = max(len(job.name) for job in listed) + 2
    lines = [
        "xlm: train, evaluate and share language models that are not only left-to-right",
        "",
        "Usage:",
        "  xlm JOB [overrides]             run a job, for example: xlm train experiment=star_easy_arlm",
        "  xlm JOB CHECKPOINT [overrides]  run a job on a trained model: xlm eval runs/mine",
        "  xlm job_type=JOB [overrides]    the same, with the job as an override",
        "  xlm JOB --help                  print the options of a job",
        "  xlm --help | --version          print this text, or the version",
        "",
        "Jobs:",
        *(f"  {job.name.ljust(width)}{job.help}" for job in listed),
        "",
        _OVERRIDES,
        "",
        "Models:",
        *_model_lines(found),
        "",
        f"Searched: {', '.join(found.places)}.",
        "XLM_MODELS_PATH adds folders with an xlm_models.json; XLM_MODELS_PACKAGES adds installed packages (a:b).",
        "HYDRA_FULL_ERROR=1 prints the traceback of an error.",
    ]
    return "\n".join(lines)


def _model_lines(found: Discovery) -> list[str]:
    width = max((len(name) for name in [*found.models, *found.unusable]), default=0) + 2
    lines = [f"  {model.name.ljust(width)}{model.version}, from {model.source}" for model in found.models.values()]
    lines += [f"  {name.ljust(width)}{str(left.error).splitlines()[0]}" for name, left in found.unusable.items()]
    named = [left.error for left in found.unusable.values()]
    lines += [f"  {str(error).splitlines()[0]}" for error in found.errors if error not in named]
    return lines or ["  none"]

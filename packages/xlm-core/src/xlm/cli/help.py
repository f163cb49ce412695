"""`xlm --help`: the jobs, the ways to override a configuration, and where models were found."""

from __future__ import annotations

import os
from pathlib import Path

from xlm.external_models import Discovery, discover
from xlm.jobs import BUILT_IN_JOBS, custom_jobs

_OVERRIDES = """\
A run is a configuration, and every part of it can be named on the command line:
  experiment=star_easy_arlm             a prepared choice of data, model and settings
  experiment=[star_easy_arlm,mine]      several, the later ones win
  datamodule=star_hard model=tiny_arlm model_type=arlm   the parts one by one
  trainer.max_steps=500 seed=7          a value
  +predictor.top_k=5                    a value that is not there yet (++ adds or replaces)
  ~datamodule.dataset_managers.train    without this part
  debug=overfit                         one batch by heart: the first check (small_data, print_predictions)
  trainer_strategy=ddp trainer.devices=2          several processes
  job_name=mine                         the run's folder, runs/mine; the same name goes on with that run
  -m seed=1,2,3                         one run for each value
  --cfg job --resolve                   print the configuration, run nothing
  --info defaults                       what it is made of; --hydra-help: Hydra's own options"""


def print_help() -> int:
    """Print the help text; always 0, since problems of discovery are shown in it."""
    print(help_text(discover(os.environ, Path.cwd())))
    return 0


def help_text(found: Discovery) -> str:
    """The whole help, for what discovery `found`."""
    jobs, _ = custom_jobs(found.models)
    listed = [*BUILT_IN_JOBS.values(), *(job for job in jobs if job.name not in BUILT_IN_JOBS)]
    width = max(len(job.name) for job in listed) + 2
    lines = [
        "xlm: train, evaluate and share language models that are not only left-to-right",
        "",
        "Usage:",
        "  xlm JOB [overrides]           for instance: xlm train experiment=star_easy_arlm",
        "  xlm job_type=JOB [overrides]  the same",
        "  xlm models                    the models that were found, and their problems",
        "  xlm runs                      the runs in runs/: steps, figures, whether they still run",
        "  xlm report RUN RUN …          compare runs on a page of their own",
        "  xlm --help | --version",
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
        "XLM_MODELS_PATH adds folders with an xlm_models.json, XLM_MODELS_PACKAGES installed packages (a:b).",
        "HYDRA_FULL_ERROR=1 shows the traceback of an error.",
    ]
    return "\n".join(lines)


def _model_lines(found: Discovery) -> list[str]:
    width = max((len(name) for name in [*found.models, *found.unusable]), default=0) + 2
    lines = [f"  {model.name.ljust(width)}{model.version}, from {model.source}" for model in found.models.values()]
    lines += [f"  {name.ljust(width)}{str(left.error).splitlines()[0]}" for name, left in found.unusable.items()]
    named = [left.error for left in found.unusable.values()]
    lines += [f"  {str(error).splitlines()[0]}" for error in found.errors if error not in named]
    return lines or ["  none"]

"""`xlm --help` lists jobs, kinds of overrides and models; `xlm JOB --help` lists the options of a job."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from xlm.commands import BUILT_IN_JOBS, Job, custom_jobs
from xlm.external_models import Discovery, activate, discover
from xlm.utils.columns import output_width

_USAGE = (
    ("xlm JOB [overrides]", "run a job: xlm train experiment=star_easy_arlm"),
    ("xlm JOB CHECKPOINT [overrides]", "run a job on a model: xlm eval runs/mine"),
    ("xlm job_type=JOB [overrides]", "the same, with the job as an override"),
    ("xlm JOB --help", "print the options of a job"),
    ("xlm --help | --version", "print this text, or the version"),
)
_OVERRIDES = (
    ("data.text=mine.txt model_type=mdlm", "train on texts of your own; the rest is chosen to fit them"),
    ("experiment=star_easy_arlm", "choose data, model and settings together"),
    ("experiment=[star_easy_arlm,mine]", "combine experiments; the later ones win"),
    ("datamodule=star_hard model_type=arlm model=tiny_arlm", "choose the parts one by one"),
    ("trainer.max_steps=500 seed=7", "set values"),
    ("+predictor.top_k=5", "add a value that is not there yet (++ adds or replaces)"),
    ("~datamodule.dataset_managers.train", "remove a part"),
    ("debug=overfit", "learn one batch by heart (or small_data, profile, lr_range)"),
    ("trainer_strategy=ddp trainer.devices=2", "use several processes"),
    ("job_name=mine", "name the run and its folder runs/mine; the same name continues that run"),
    ("-m seed=1,2,3", "start one run per value"),
    ("--cfg job --resolve", "print the configuration as written, without running"),
    ("--info defaults", "print the files behind it; --hydra-help prints Hydra's options"),
)
# The widest column of keys, and the narrowest of explanations: with less, an explanation is below its key.
_WIDEST_KEY, _NARROWEST = 34, 30


def print_help(words: Sequence[str] = ()) -> int:
    """Print the help of the job among the words, or the general help; returns 0, since it shows discovery problems."""
    names = [word.removeprefix("job_type=") for word in words]
    job = next((BUILT_IN_JOBS[name] for name in names if name in BUILT_IN_JOBS), None)
    if job is None:
        found = discover(os.environ, Path.cwd())
        job = next((job for job in custom_jobs(found.models)[0] if job.name in names), None)
        if job is None:
            print(help_text(found, output_width()))
            return 0
        activate(found.models, folders=found.folders)
    print(job_help(job, output_width()))
    return 0


def job_help(job: Job, width: int | None = None) -> str:
    """The help of a job: key, purpose, allowed values and default of each option, from the schemas that check it.

    Args:
        width: of the terminal; None: a line for each option, however long.
    """
    from xlm.utils.annotations import default_of, describe, options_in

    lines = [*_wrapped(f"xlm {job.name}: {job.help}", width), ""]
    lines += _wrapped(f"Usage: xlm {job.name} {job.usage}".rstrip(), width, "       ")
    sections = []
    for schema in job.schemas:
        section = getattr(schema, "section", "")
        # A schema's own options come before those that it shares with others.
        options = sorted(options_in(schema).values(), key=lambda each: each.name not in schema.__annotations__)
        entries = [
            (
                f"{section}.{each.name}" if section else each.name,
                _explained(each.help, describe(each.annotation), default_of(each)),
            )
            for each in options
        ]
        sections.append((f"{schema.__doc__}".splitlines()[0], entries))
    column = _column([entry for _, entries in sections for entry in entries])
    for title, entries in sections:
        lines += ["", *_wrapped(title, width), *_entries(entries, width, column)]
    lines += ["", *_wrapped(job.note, width)] if job.note else []
    lines += ["", *_wrapped(_OTHERS, width)] if job.options and job.name != "train" and not job.is_standalone else []
    return "\n".join(lines)


_OTHERS = "xlm train --help lists the top-level options of a configuration; xlm --help shows how to set them."


def _explained(purpose: str, allowed: str, default: str) -> str:
    # Most options take any text, which the example or the purpose shows.
    kind = "" if allowed in ("a text", "a text or null") else f" ({allowed})"
    return f"{purpose}{kind}" if default in ("", "null") else f"{purpose}{kind} [{default}]"


def _column(entries: Sequence[tuple[str, str]]) -> int:
    """The width of the keys: that of the longest, without those that get a line of their own."""
    return max((len(key) for key, _ in entries if len(key) <= _WIDEST_KEY), default=0)


def _entries(entries: Sequence[tuple[str, str]], width: int | None, column: int | None = None) -> list[str]:
    """Keys and explanations in two columns, or one below the other in a narrow terminal."""
    column = _column(entries) if column is None else column
    indent = " " * (column + 4)
    if width is not None and width - len(indent) < _NARROWEST:
        indent = " " * 6
    lines = []
    for key, text in entries:
        if len(key) > len(indent) - 4:
            lines.append(f"  {key}")
            key = ""
        first = f"  {key}".ljust(len(indent))
        lines += _wrapped(f"{first}{text}", width, indent)
    return lines


def _wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """The lines of a text, of which the first has its own indentation."""
    if width is None:
        return [text]
    start = len(text) - len(text.lstrip())
    # Two columns are one text: the blanks between them stay.
    return textwrap.wrap(
        text[start:], max(width, 20), initial_indent=text[:start], subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def help_text(found: Discovery, width: int | None = None) -> str:
    """The general help, with the models that discovery `found`; `width` as for `job_help`."""
    jobs, _ = custom_jobs(found.models)
    listed = [*BUILT_IN_JOBS.values(), *(job for job in jobs if job.name not in BUILT_IN_JOBS)]
    lines = [
        *_wrapped("xlm: train, evaluate and share language models that are not only left-to-right", width),
        "",
        "Usage:",
        *_entries(_USAGE, width),
        "",
        "Jobs:",
        *_entries([(job.name, job.help) for job in listed], width),
        "",
        *_wrapped("A run is described by a configuration. Overrides change any part of it:", width),
        *_entries(_OVERRIDES, width),
        "",
        "Models:",
        *_model_lines(found),
        "",
        *_wrapped(f"Searched: {', '.join(found.places)}.", width),
        *_wrapped(
            "XLM_MODELS_PATH adds folders with an xlm_models.json; XLM_MODELS_PACKAGES adds installed packages (a:b).",
            width,
        ),
        *_wrapped("HYDRA_FULL_ERROR=1 prints the traceback of an error.", width),
    ]
    return "\n".join(lines)


def _model_lines(found: Discovery) -> list[str]:
    width = max((len(name) for name in [*found.models, *found.unusable]), default=0) + 2
    lines = [f"  {model.name.ljust(width)}{model.version}, from {model.source}" for model in found.models.values()]
    lines += [f"  {name.ljust(width)}{str(left.error).splitlines()[0]}" for name, left in found.unusable.items()]
    named = [left.error for left in found.unusable.values()]
    lines += [f"  {str(error).splitlines()[0]}" for error in found.errors if error not in named]
    return lines or ["  none"]

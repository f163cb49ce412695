"""The commands of `xlm`: core's own, in one table, and those that models define in commands.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xlm.errors import ConfigError, UnknownJobError
from xlm.external_models import ModelPackage, load_commands
from xlm.utils.imports import get_function, get_object, rare_collections

# Names of the model in every command that loads one; a word without a key means the same.
MODEL_KEYS = ("checkpoint", "checkpoint_path", "ckpt_path")
_SAMPLER = "predictor.<option>=… sets an option of the model's sampler."
_NO_OPTIONS = "This job has no options of its own; see xlm train --help."
_TRACE_KEYS = (
    "prompts",
    "prompt_file",
    "num_samples",
    "mode",
    "split",
    "apply_ema",
    "revision",
    "trust",
    "trust_remote_code",
)


@dataclass(frozen=True)
class Job:
    """A command, `xlm NAME` or `xlm job_type=NAME`.

    Args:
        name: its name.
        target: dotted path of its function: `fn(cfg)` of a composed configuration, or `fn(words, options)` of a
            standalone command. An integer that it returns is the exit code.
        help: its line in `xlm --help`.
        source: the model that defines it.
        usage: what follows the name, for `xlm NAME --help`.
        options: names of schemas in `xlm.schemas`, or dotted paths of a model's own schemas, that describe its options.
            A composed command finds them in the section of the configuration that the schema names; a standalone one
            reads them from its words.
        note: what else it accepts.
        is_standalone: whether it runs without a composed configuration.
        other_names: other names for options of a standalone command, and what its flags stand for.
        takes_overrides: whether unknown `key=value` are left among the words.
    """

    name: str
    target: str
    help: str
    source: str = "xlm"
    usage: str = "[overrides]"
    options: tuple[str, ...] = ()
    note: str = ""
    is_standalone: bool = False
    other_names: Mapping[str, str] = field(default_factory=dict, hash=False)
    takes_overrides: bool = False

    def load(self) -> Callable[..., Any]:
        """Import the function; raises BadTargetError if that fails."""
        with rare_collections():
            return get_function(self.target, key=f"job_type={self.name}")

    @property
    def schemas(self) -> tuple[type, ...]:
        """The classes of `options`."""
        paths = (name if "." in name else f"xlm.schemas.{name}" for name in self.options)
        return tuple(get_object(path, key=f"job_type={self.name}") for path in paths)


BUILT_IN_JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job(
            "train",
            "xlm.commands.train.run",
            "train a model, with validation, and test it at the end",
            usage="data.text=FILE model_type=… [overrides], or experiment=… [overrides]",
            options=("Root", "MixtureSection", "TrainerSection", "GlobalFlags", "Trace"),
            note="data.text=FILE trains on texts of your own, and with data.prompt=COLUMN data.answer=COLUMN on "
            "prompts and answers; what you don't set is chosen to fit. xlm --help shows how to choose parts of a run.",
        ),
        Job(
            "eval",
            "xlm.commands.eval.run",
            "evaluate a trained model on a split",
            usage="CHECKPOINT [overrides]",
            options=("Eval",),
            note=_SAMPLER,
        ),
        Job(
            "generate",
            "xlm.commands.generate.run",
            "generate text with a trained model",
            usage="CHECKPOINT [PROMPT …] [--prompt TEXT] [overrides]",
            options=("Generation",),
            note=f"Words after the model are prompts; --prompt takes any text. Lines of a pipe are prompts. {_SAMPLER}",
        ),
        Job(
            "extract_checkpoint",
            "xlm.commands.exchange.extract",
            "export the model of a checkpoint as a folder to share",
            usage="CHECKPOINT [overrides]",
            options=("Extract",),
        ),
        Job(
            "push_to_hub",
            "xlm.commands.exchange.push",
            "upload the model of a checkpoint to the Hugging Face hub",
            usage="CHECKPOINT hub.repo_id=… [overrides]",
            options=("Hub",),
        ),
        Job(
            "plan",
            "xlm.commands.plan.run",
            "estimate the parameters, memory, FLOPs, time and disk of a run",
            usage="experiment=… [overrides]",
            options=("Plan",),
        ),
        Job(
            "sweep_sampler",
            "xlm.commands.sweep_sampler.run",
            "compare settings of a sampler: quality against cost",
            usage="CHECKPOINT sweep.<option>=[…] [overrides]",
            options=("Sweep",),
            note="sweep.<option>=[…] sets the values to try for an option of the model's sampler, such as "
            "sweep.temperature=[0.5,1].",
        ),
        Job(
            "prepare_data",
            "xlm.commands.prepare_data.run",
            "download or generate the data, and cache it",
            usage="experiment=… [overrides]",
            note=_NO_OPTIONS,
        ),
        Job(
            "train_tokenizer",
            "xlm.commands.train_tokenizer.run_train_tokenizer",
            "train a tokenizer on texts",
            usage="FILE … out=FOLDER [options]",
            options=("TrainTokenizer",),
            is_standalone=True,
        ),
        Job(
            "trace",
            "xlm.commands.trace.run_trace",
            "show how trained models generate text, side by side",
            usage="CHECKPOINT CHECKPOINT … [--prompt TEXT] [options]",
            options=("TraceRuns",),
            note=f"{_SAMPLER} NAME.predictor.<option>=… sets it for one run or family.",
            is_standalone=True,
            # The names of these options in `xlm generate`.
            other_names={
                **{f"generation.{name}": name for name in _TRACE_KEYS},
                "generation.num_examples": "num_prompts",
                "generation.checkpoint_path": "runs",
                "generation.ckpt_path": "runs",
                **dict.fromkeys(MODEL_KEYS, "runs"),
            },
        ),
        Job(
            "lm_eval",
            "xlm.commands.lm_eval.run_lm_eval",
            "run tasks of lm-evaluation-harness on a trained model",
            usage="CHECKPOINT tasks=[…] [options]",
            options=("LMEval",),
            note=_SAMPLER,
            is_standalone=True,
            other_names=dict.fromkeys(MODEL_KEYS, "checkpoint"),
        ),
        Job(
            "check",
            "xlm.commands.check.run_check",
            "check that a model package obeys the contract",
            usage="NAME [overrides]",
            options=("Check",),
            is_standalone=True,
            takes_overrides=True,
        ),
        Job(
            "text_quality",
            "xlm.commands.text_quality.run_text_quality",
            "measure perplexity, diversity and copied text of generated texts",
            usage="FILE … [options]",
            options=("TextQuality",),
            is_standalone=True,
        ),
        Job(
            "repeat",
            "xlm.commands.repeat.run_repeat",
            "train again from a run's record, and compare to the last bit",
            usage="RUN [options]",
            options=("Repeat",),
            is_standalone=True,
            other_names=dict.fromkeys(MODEL_KEYS, "run"),
        ),
        Job(
            "runs",
            "xlm.commands.report.print_runs",
            "list the runs in a folder, by default runs/",
            usage="[FOLDER …] [WORD …] [key=value …] [options]",
            options=("Runs",),
            note="A WORD chooses the runs with it in their row, or a name that matches a pattern such as 'star_*'. "
            "key=value chooses by a setting: model_type=mlm, task=star_easy, state=running, optimizer.lr=0.003.",
            is_standalone=True,
            takes_overrides=True,
        ),
        Job(
            "rm",
            "xlm.commands.moving.remove_runs",
            "remove runs, after a confirmation",
            usage="RUN … [yes=true]",
            options=("Remove",),
            note="A RUN is the folder or the name of a run, or a pattern. A run that is in use is never removed.",
            is_standalone=True,
            other_names={"--yes": "yes=true", "-y": "yes=true"},
            takes_overrides=True,  # runs have names such as seed=1
        ),
        Job(
            "mv",
            "xlm.commands.moving.move_run",
            "rename a run, or move it to another folder",
            usage="RUN NEW",
            options=("Move",),
            note="NEW is a name below runs/ or a path; NEW/ moves the run into that folder under its old name.",
            is_standalone=True,
            takes_overrides=True,
        ),
        Job(
            "report",
            "xlm.commands.report.write_report",
            "compare runs on one page",
            usage="RUN RUN … [options]",
            options=("Report",),
            is_standalone=True,
            other_names=dict.fromkeys(MODEL_KEYS, "runs"),
        ),
        Job(
            "models",
            "xlm.commands.models.print_models",
            "list the models that were found, with any problems",
            usage="",
            options=("Models",),
            is_standalone=True,
        ),
        Job(
            "completion",
            "xlm.commands.completion.print_completion",
            "print a script that completes jobs, groups and keys: xlm completion bash",
            usage="SHELL",
            is_standalone=True,
        ),
        Job(
            "experiments",
            "xlm.commands.experiments.print_experiments",
            "list the experiments, with their model and data",
            usage="[WORD …] [options]",
            options=("Experiments",),
            note="A WORD chooses the experiments with it in their row, or a name that matches a pattern ('star_*').",
            is_standalone=True,
        ),
        Job(
            "name",
            "xlm.commands.name.run",
            "print the name of a run, which is its folder under runs/",
            usage="experiment=… [overrides]",
            note=_NO_OPTIONS,
        ),
    )
}


def custom_jobs(models: Mapping[str, ModelPackage]) -> tuple[list[Job], list[str]]:
    """All jobs that `models` define, and warnings about unreadable files and names of built-in jobs."""
    from xlm.errors import ModelsFileError

    jobs: list[Job] = []
    warnings: list[str] = []
    for model in models.values():
        try:
            commands = load_commands(model)
        except ModelsFileError as error:
            warnings.append(str(error))
            continue
        for name, entry in commands.items():
            if name in BUILT_IN_JOBS:
                warnings.append(f"Model '{model.name}' defines a job '{name}'; the built-in job of that name is used.")
                continue
            is_standalone = entry.get("kind") == "standalone"
            jobs.append(
                Job(
                    name,
                    entry["target"],
                    entry.get("help", f"job of model '{model.name}'"),
                    model.name,
                    usage="[words and options]" if is_standalone else "[overrides]",
                    options=(entry["options"],) if "options" in entry else (),
                    is_standalone=is_standalone,
                )
            )
    return jobs, warnings


def job_names(custom: Iterable[Job] = ()) -> list[str]:
    """All valid names for `job_type`, sorted."""
    return sorted({*BUILT_IN_JOBS, *(job.name for job in custom)})


def find_job(job_type: str, custom: Iterable[Job] = ()) -> Job:
    """The job of that name, core's own first; raises UnknownJobError, or ConfigError if models conflict."""
    if job_type in BUILT_IN_JOBS:
        return BUILT_IN_JOBS[job_type]
    custom = list(custom)
    named = [job for job in custom if job.name == job_type]
    if not named:
        raise UnknownJobError(job_type, job_names(custom))
    if len({job.target for job in named}) > 1:
        claims = ", ".join(f"{job.target} (model '{job.source}')" for job in named)
        raise ConfigError(f"Several models define a job '{job_type}': {claims}.", key="job_type")
    return named[0]


def named_job(args: Sequence[str], custom: Iterable[Job] = ()) -> str:
    """The job in a command line, from its first word or `job_type=`; empty if there is none."""
    said = [text.partition("=")[2] for text in args if text.startswith("job_type=")]
    return args[0] if args and args[0] in job_names(custom) else said[0] if said else ""


def standalone_job(args: Sequence[str], custom: Iterable[Job] = ()) -> Job | None:
    """The standalone command in a command line, core's own first; None if there is none."""
    custom = list(custom)
    name = named_job(args, custom)
    job = find_job(name, custom) if name in job_names(custom) else None
    return job if job is not None and job.is_standalone else None


def exit_code(result: Any) -> int:
    """The result of a command's function as an exit code: an integer stays, anything else means success."""
    return result if isinstance(result, int) and not isinstance(result, bool) else 0

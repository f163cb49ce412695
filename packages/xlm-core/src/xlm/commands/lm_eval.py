"""`xlm lm_eval checkpoint=… tasks=[…]`: runs tasks of lm-evaluation-harness on a trained model of any family."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlm.commands.words import as_value
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.schemas import LMEval

JOB = "lm_eval"
_OF_SAMPLER = "predictor."
NOT_INSTALLED = 'lm-evaluation-harness is not installed: pip install "xlm-core[lm-eval]".'


def run_lm_eval(words: Sequence[str], options: LMEval) -> int:
    """Run the tasks, print their table, write `output` (default: lm_eval.json in the run's folder); 0.

    Raises:
        ConfigError: lm-eval isn't installed, a task is unknown, or the model family doesn't support it.
        CheckpointError: there is no such model.
    """
    sampler = {word.partition("=")[0]: as_value(word) for word in words if word.startswith(_OF_SAMPLER)}
    named = [word for word in words if not word.startswith(_OF_SAMPLER)]
    checkpoint = options.checkpoint or (named.pop(0) if named else "")
    if named:
        raise ConfigError(f"xlm lm_eval takes one checkpoint, but was also given '{named[0]}'.")
    if not checkpoint:
        raise ConfigError("Which model? xlm lm_eval checkpoint=runs/mine tasks=[…].", key="checkpoint")
    tasks = list(options.tasks)
    if not tasks:
        raise ConfigError(
            "Which tasks? xlm lm_eval checkpoint=… tasks=[a,b], and include_path=… for your own.", key="tasks"
        )
    _evaluate(checkpoint, tasks, options, sampler)
    return 0


def _evaluate(checkpoint: str, tasks: list[str], options: LMEval, sampler: dict[str, Any]) -> None:
    try:
        import lm_eval
        from lm_eval.utils import handle_non_serializable, make_table
    except ModuleNotFoundError as error:
        raise ConfigError(NOT_INSTALLED) from error
    from omegaconf import OmegaConf

    from xlm.inference.session import display_path, quiet_libraries
    from xlm.lm_eval.model import XLMForLMEval
    from xlm.training.progress import write_results
    from xlm.utils.files import output_file
    from xlm.utils.run_record import run_record

    quiet_libraries()
    if options.output:
        output_file(options.output, "output")
    lm = XLMForLMEval(
        checkpoint,
        device=options.device,
        precision=options.precision,
        revision=options.revision or None,
        batch_size=options.batch_size,
        num_samples=options.num_samples,
        seed=options.seed,
        max_gen_toks=options.max_gen_toks,
        score_end=options.score_end,
        apply_ema=options.apply_ema,
        trust=options.trust or options.trust_remote_code,
        **sampler,
    )
    output = output_file(options.output or _folder(checkpoint, lm.lm.source) / "lm_eval.json", "output")
    manager = _manager(tasks, options.include_path)
    results = lm_eval.simple_evaluate(
        lm,
        tasks=tasks,
        task_manager=manager,
        num_fewshot=options.num_fewshot,
        batch_size=lm.batch_size,
        device=str(lm.device),
        limit=options.limit,
        use_cache=options.use_cache or None,
        bootstrap_iters=options.bootstrap_iters,
        log_samples=options.log_samples,
    )
    record = run_record(OmegaConf.to_yaml(lm.lm.config, resolve=False), lm.seed, lm.device.type, Path.cwd())
    plain = json.loads(json.dumps(results, default=handle_non_serializable))
    written = write_results(output, {**record, "job_type": JOB, **plain})
    print(make_table(results))
    print(stated_options(plain["config"]["xlm"]))
    print(f"Written to {display_path(written)}.")


def stated_options(about: dict[str, Any]) -> str:
    """A line that says what the numbers mean."""
    found = about["likelihood"]
    cut = f" {about['num_truncated']} contexts were truncated at their start." if about["num_truncated"] else ""
    if found is None:
        return f"{about['checkpoint']}: nothing was scored.{cut}"
    draws = "" if found["num_samples"] is None else f", {found['num_samples']} draws per request"
    return f"Likelihoods of {found['scored']}: {found['kind']}{draws}; of {found['of']}.{cut}"


def _manager(tasks: list[str], include_path: str) -> Any:
    """lm-eval's index of tasks; only of the given folder if it has all tasks, since the full index takes seconds."""
    from lm_eval.tasks import TaskManager

    if include_path and not Path(include_path).is_dir():
        raise ConfigError(f"There is no folder of tasks at {include_path}.", key="include_path")
    own = TaskManager(include_path=include_path, include_defaults=False) if include_path else None
    if own is not None and not _unknown(tasks, own.all_tasks):
        return own
    manager = TaskManager(include_path=include_path or None)
    if unknown := _unknown(tasks, manager.all_tasks):
        hint = did_you_mean(nearest_names(unknown[0], manager.all_tasks, 1))
        there = "" if own is None else f" {include_path} has: {', '.join(own.all_tasks) or 'none'}."
        raise ConfigError(f"lm-eval has no task '{unknown[0]}'.{there} {hint}".rstrip(), key="tasks")
    return manager


def _unknown(tasks: list[str], known: list[str]) -> list[str]:
    return [name for name in tasks if not fnmatch.filter(known, name)]


def _folder(checkpoint: str, weights: Path) -> Path:
    """The folder of the run or of the weights; the current folder for a model from the hub."""
    from xlm.inference.sources import folder_of, local_path

    return folder_of(weights) if local_path(checkpoint).exists() else Path.cwd()

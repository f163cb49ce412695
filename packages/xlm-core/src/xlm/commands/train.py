"""`xlm train`: trains a model in a run that can be stopped and continued, then tests the best weights."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.text import Text
from torch import nn

from xlm import flags
from xlm.commands.few_steps import expected_time
from xlm.commands.own_data_lines import own_data_lines, say_other_data
from xlm.compose.devices import num_devices
from xlm.compose.own_data import AUTOMATIC
from xlm.datamodule import TextDataModule, TrainLoader
from xlm.errors import CheckpointError, ConfigError, of_option
from xlm.evaluation.likelihood import LikelihoodPass, Measured, print_likelihoods
from xlm.evaluation.metrics import Estimates
from xlm.harness import Harness
from xlm.inference.session import Session, build_callbacks, build_loggers, display_path, start
from xlm.inference.tracing import tracing
from xlm.inference.warm_start import Origin, find_origin, tokenizer_for, use_network_of
from xlm.reports.files import read_mapping
from xlm.schemas import Trace
from xlm.training.background import BackgroundCheckpointIO
from xlm.training.blocks import compile_note
from xlm.training.checkpoints import BEST, BestCheckpoint, LastCheckpoint, without_checkpoints
from xlm.training.curves import draw_curves
from xlm.training.disk_space import check_space
from xlm.training.early_stopping import stopped_early
from xlm.training.ema import ExponentialMovingAverage
from xlm.training.estimate import num_checkpoints
from xlm.training.guards import FiniteLossGuard, GracefulSignals, MonitoredMetric, raising_on_sigterm
from xlm.training.interval import LogInterval
from xlm.training.lr_range import LearningRateRange
from xlm.training.optim import num_parameters
from xlm.training.overfit import verdict_of
from xlm.training.parts import LOSS, shares_of_run
from xlm.training.progress import ProgressDisplay, print_results, write_results
from xlm.training.remote_loggers import forget_ids
from xlm.training.requeue import requeueing
from xlm.training.resume import (
    config_differences,
    data_differences,
    differences_in_words,
    find_resumable,
    load_checkpoint,
)
from xlm.training.rng import RandomState, random_state_of
from xlm.training.sharded_checkpoints import is_checkpoint, is_sharded
from xlm.training.step_count import StepCount
from xlm.training.train_log import LogTruncation, TrainingCost, TrainLog, num_tokens
from xlm.training.weights import check_fits, load_weights, select_weights
from xlm.utils.annotations import LARGEST
from xlm.utils.choices import choices_of, hydra_choices, typed_keys
from xlm.utils.columns import sentence_lines
from xlm.utils.consoles import width_of
from xlm.utils.files import output_folder, remove_leftovers
from xlm.utils.rank_zero import RankedLogger, is_first_process
from xlm.utils.run_lock import RunLock
from xlm.utils.text import duration

log = RankedLogger(__name__, rank_zero_only=True)

# Number of batches to count tokens in: with 64 texts each, the mean is known within about a percent.
NUM_COUNTED = 32


@dataclass(frozen=True)
class Length:
    """The optimizer steps of a run, and the reason for their number."""

    steps: int
    reason: str


def resolve_length(cfg: DictConfig, datamodule: TextDataModule) -> Length | None:
    """Set `trainer.max_steps` from `max_tokens` or `trainer.max_epochs`; None if neither is set.

    The smallest limit applies; `max_tokens` replaces `trainer.max_steps`. All processes of a run get the same
    number.

    Raises:
        ConfigError: `max_tokens` is too large, or batches have no `input_ids`.
    """
    max_epochs, max_tokens = cfg.trainer.get("max_epochs") or -1, cfg.get("max_tokens")
    if any(manager.is_endless for manager in datamodule.dataset_managers["train"].values()):
        _check_endless(cfg)
    if max_epochs <= 0 and max_tokens is None:
        return None
    datamodule.setup("fit")
    world_size = num_devices(cfg.trainer.get("devices"), cfg.trainer.get("accelerator")) * int(cfg.trainer.num_nodes)
    accumulate = int(cfg.trainer.get("accumulate_grad_batches") or 1)
    found: list[Length] = []
    if max_tokens is not None:
        per_step = _tokens_per_batch(datamodule.train_loader_of(1), cfg.seed) * world_size * accumulate
        steps = max(1, math.ceil(max_tokens / per_step))
        if steps > LARGEST:
            raise ConfigError(
                f"max_tokens={max_tokens:.3g} would be {steps:.3g} steps, which is too many.", key="max_tokens"
            )
        found.append(Length(steps, f"for {max_tokens:,.0f} tokens, about {per_step:,.0f} per step"))
    elif cfg.trainer.max_steps > 0:
        found.append(Length(int(cfg.trainer.max_steps), "trainer.max_steps"))
    if max_epochs > 0:
        num_batches = _limited(len(datamodule.train_loader_of(world_size)), cfg.trainer.get("limit_train_batches"))
        per_epoch = max(1, math.ceil(num_batches / accumulate))
        epochs = "1 epoch" if max_epochs == 1 else f"{max_epochs} epochs"
        found.append(Length(max_epochs * per_epoch, f"{epochs} of {per_epoch:,} steps"))
    shortest = min(found, key=lambda length: length.steps)
    others = [f"{length.reason}: {length.steps:,}" for length in found if length is not shortest]
    with open_dict(cfg):
        cfg.trainer.max_steps = shortest.steps
    return Length(shortest.steps, "; ".join([shortest.reason, *others]))


def _check_endless(cfg: DictConfig) -> None:
    """ConfigError for settings that need the length of an epoch, which streams and mixtures don't have."""
    trainer, why = cfg.trainer, "but streams and mixtures have no end"
    if (trainer.get("max_epochs") or -1) > 0:
        raise ConfigError(
            f"trainer.max_epochs is {trainer.max_epochs}, {why}. Set trainer.max_steps or max_tokens instead.",
            key="trainer.max_epochs",
        )
    if trainer.max_steps < 0 and cfg.get("max_tokens") is None and trainer.get("max_time") is None:
        raise ConfigError(
            f"There is no limit to training (trainer.max_steps=-1), {why}. Set trainer.max_steps or max_tokens.",
            key="trainer.max_steps",
        )
    for name in ("val_check_interval", "limit_train_batches"):
        value = trainer.get(name)
        if isinstance(value, float) and not (name == "limit_train_batches" and value == 1.0):
            raise ConfigError(
                f"trainer.{name} is {value}, a share of an epoch, {why}. Give a number of batches.",
                key=f"trainer.{name}",
            )
    if trainer.get("check_val_every_n_epoch") is not None and trainer.get("limit_train_batches") in (None, 1.0):
        raise ConfigError(
            f"trainer.check_val_every_n_epoch is {trainer.check_val_every_n_epoch}, {why}. "
            "Set it to null, and trainer.val_check_interval to a number of batches.",
            key="trainer.check_val_every_n_epoch",
        )


def _tokens_per_batch(loader: TrainLoader, seed: int) -> float:
    """Mean number of tokens in a batch of one device, without padding."""
    with random_state_of(seed):
        counts = [num_tokens(batch) for batch in itertools.islice(iter(loader), NUM_COUNTED)]
    if not sum(counts):
        raise ConfigError("max_tokens cannot be used: the batches have no input_ids to count.", key="max_tokens")
    return sum(counts) / len(counts)


def _limited(num_batches: int, limit: Any) -> int:
    """The limit as Lightning reads `limit_train_batches`: a number of batches, or a share of them."""
    if limit is None:
        return num_batches
    return int(num_batches * limit) if isinstance(limit, float) else min(num_batches, limit)


def run(cfg: DictConfig) -> dict[str, float]:
    """Train as configured; returns the final metrics.

    Raises:
        RunInUseError: another training run is writing to the same folder.
        XLMError: any other user error, before anything is written if possible.
    """
    with requeueing(), raising_on_sigterm(), contextlib.ExitStack() as stack:
        locks = [stack.enter_context(RunLock(folder)) for folder in written_folders(cfg)]
        for lock in locks:
            remove_leftovers(lock.folder)
        return _train(cfg, locks)


def written_folders(cfg: DictConfig) -> list[Path]:
    """The run's folder, and the checkpoint folder if it is elsewhere; empty for a process that writes nothing."""
    run_dir, checkpoints = Path(cfg.paths.run_dir), Path(cfg.checkpointing_dir)
    if not is_first_process():
        return []
    is_inside = checkpoints.absolute().is_relative_to(run_dir.absolute())
    elsewhere = [] if is_inside else [output_folder(checkpoints, "checkpointing_dir")]
    return [output_folder(run_dir, "paths.run_dir"), *elsewhere]


def _train(cfg: DictConfig, locks: list[RunLock]) -> dict[str, float]:
    resume = resume_point(cfg)
    origin = find_origin(cfg) if cfg.get("init_from") and resume is None else None
    if origin is not None:
        use_network_of(origin, cfg)
    session = start(cfg, tokenizer=tokenizer_for(cfg, origin))
    # Before anything is written, so that a source that cannot be read leaves no files behind.
    session.datamodule.prepare_data()
    if resume is not None and not cfg.resume_checkpoint_path:
        refuse_other_data(resume[1], session)
    say_other_data(cfg, session.datamodule)
    length = resolve_length(cfg, session.datamodule)
    expected = expected_time(session) if is_automatic(cfg) and resume is None and not flags.DEBUG else ""
    harness = session.harness()
    step_before = 0 if resume is None else resume[1]["global_step"]
    is_complete = 0 < cfg.trainer.max_steps <= step_before
    if not is_complete:
        harness.check_optimizer()
    if resume is not None:
        check_fits(harness, resume[1]["state_dict"], resume[0])
    if origin is not None:
        origin.load_into(harness, session.tokenizer, cfg.init_tokenizer)
    if locks and not is_complete and not flags.DEBUG:
        warn_of_space(cfg, harness)
    with GracefulSignals() as signals:
        train_log = TrainLog()
        cost, estimates = TrainingCost(train_log), Estimates()
        if resume is None and locks:
            forget_ids(session.run_dir)
        trainer = session.trainer(
            [cost, estimates, RunLockHeld(locks), *callbacks(cfg, signals, train_log)], build_loggers(cfg)
        )
        describe_run(session, harness, trainer, length, expected, origin)
        earlier = read_mapping(session.run_dir / "results.json", [])
        if is_complete:
            kept = earlier.get("metrics") if earlier.get("step") == step_before else None
            left = "it is only tested again" if is_tested(session) else "nothing is left to do"
            session.console.print(
                f"This run is complete at step {step_before}; {left}. "
                "Use a larger trainer.max_steps to continue it, or another job_name to start a new one.",
                soft_wrap=True,
            )
            if not is_tested(session) and isinstance(kept, dict):  # its results stay, an earlier test's among them
                return {name: float(value) for name, value in kept.items() if isinstance(value, int | float)}
        before = read_mapping(session.run_dir / "record_train.json", []).get("init_from") if resume else None
        started = before if origin is None else origin.as_dict()
        record = session.write_record(trainer, "train", **({} if started is None else {"init_from": started}))
        if resume is not None and is_complete and not needs_fit(session, harness, trainer, resume[0]):
            restore_without_fit(harness, trainer, resume[1])
            del resume
        else:
            path = None if resume is None else str(resume[0])
            del resume  # fit reads it again, and both would stay in memory
            trainer.fit(harness, datamodule=session.datamodule, ckpt_path=path, weights_only=True)
    overfit = verdict_of(trainer)
    if overfit is not None and overfit.is_due(trainer):
        trainer.validate(harness, datamodule=session.datamodule, verbose=False)
    if stopped := stopped_early(trainer):
        record["stopped_early"] = stopped
        if trainer.is_global_zero:
            session.console.print("\n".join(stopped), highlight=False, soft_wrap=True)
    record["parameters"] = num_parameters(harness)
    record["training"] = cost.as_dict(trainer.strategy.root_device)
    if earlier.get("step") == trainer.global_step == step_before and "training" in earlier:
        # Nothing was trained: keep the cost that the first end wrote, with the time after the last checkpoint.
        record["training"] = earlier["training"]
    metrics = finish(session, harness, trainer, record, estimates)
    if overfit is not None:
        session.console.print(overfit.conclude(session.run_dir))
    return metrics


def resume_point(cfg: DictConfig) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to continue from, if any.

    Raises:
        ConfigError: the run's folder has a run with another model, loss, optimizer, seed or other lengths.
        CheckpointError: the named checkpoint cannot be used, or no checkpoint in the folder can be read.
    """
    if cfg.resume_checkpoint_path:
        path = Path(cfg.resume_checkpoint_path)
        with of_option("resume_checkpoint_path"):
            return path, load_checkpoint(path)
    if (cfg.get("global_flags") or {}).get("DEBUG"):
        return None  # debugging runs keep no checkpoints and replace each other
    directory = Path(cfg.checkpointing_dir)
    found = find_resumable(directory) if directory.is_dir() else None
    if found is None:
        return None
    if not cfg.resume_from_checkpoint:
        raise CheckpointError(
            f"{directory} has the checkpoints of a run, and resume_from_checkpoint=false would overwrite them.\n"
            "Use another job_name, or remove that folder."
        )
    old: Any = OmegaConf.create(found[1].get("xlm_config") or "{}")
    differences = config_differences(old, cfg)
    if differences:
        record = read_mapping(Path(cfg.paths.run_dir) / "record_train.json", [])
        after = choices_of({"choices": hydra_choices()}, cfg)
        typed = typed_keys([*(record.get("command") or []), *sys.argv])
        raise ConfigError(
            f"{cfg.paths.run_dir} holds a run with other settings; nothing was changed. They differ in:\n  "
            + "\n  ".join(differences_in_words(differences, choices_of(record, old), after, typed))
            + "\nUse another job_name= for a new run, or the old settings to continue that one."
        )
    return found


def needs_fit(session: Session, harness: Harness, trainer: Trainer, checkpoint: Path) -> bool:
    """Whether a complete run still has to enter Lightning's fit before its test.

    There the weights of sharded runs are split, a mixture's training loader counts the shares of its parts,
    `debug=overfit` changes the predictor, and a person's own harness or callbacks may rely on the order of its hooks.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return (
        trainer.strategy.restore_checkpoint_after_setup
        or is_sharded(checkpoint)
        or any(manager.is_endless for manager in session.datamodule.dataset_managers["train"].values())
        or verdict_of(trainer) is not None
        or any(not type(part).__module__.startswith("xlm.") for part in (harness, *callbacks))
    )


def restore_without_fit(harness: Harness, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Restore weights, callbacks and counts from a checkpoint as fit does, but build no optimizer and no loaders."""
    harness.trainer = trainer
    trainer.strategy.connect(harness)
    connector = trainer._checkpoint_connector
    connector._loaded_checkpoint = checkpoint
    connector.restore_model()
    connector.restore_callbacks()
    connector._loaded_checkpoint = {}
    # The connector's own method refuses fewer epochs than were trained, which matters to training only.
    trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])


def refuse_other_data(checkpoint: dict[str, Any], session: Session) -> None:
    """ConfigError if the run of a checkpoint was trained on other examples. Old checkpoints without a record pass.

    The settings alone cannot show this: a file may keep its name and change its content.
    """
    differences = data_differences(checkpoint.get("xlm_data") or {}, session.datamodule.contents("train"))
    if differences:
        raise ConfigError(
            f"{session.run_dir} holds a run on other training data; nothing was changed. They differ in:\n  "
            + "\n  ".join(differences)
            + "\nUse another job_name= for a new run, or the old data to continue that one."
        )


def warn_of_space(cfg: DictConfig, harness: Harness) -> None:
    """Log a warning if the checkpoints that the run keeps don't fit on the disk; StorageError if not even one does."""
    num_kept = num_checkpoints(cfg.get("callbacks") or {}, cfg.trainer.max_steps)
    warning = check_space(Path(cfg.checkpointing_dir), harness, num_kept, bool(cfg.ema_decay))
    if warning is not None:
        log.warning(warning)


class RunLockHeld(Callback):
    """Ends a run if another run has taken over its folder, if the folder was removed, or if a save has failed."""

    def __init__(self, locks: list[RunLock]) -> None:
        self.locks = locks

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._check()
        plugin = trainer.strategy.checkpoint_io
        if isinstance(plugin, BackgroundCheckpointIO):
            plugin.check()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check()

    def _check(self) -> None:
        for lock in self.locks:
            lock.check()


def callbacks(cfg: DictConfig, signals: GracefulSignals, train_log: TrainLog) -> list[Callback]:
    """The configured callbacks, with core's own before and after them."""
    own: list[Callback] = [
        StepCount(), RandomState(cfg.seed), LogTruncation(), FiniteLossGuard(), MonitoredMetric(), train_log,
        LogInterval(train_log),
    ]  # fmt: skip
    if cfg.ema_decay:
        # First: later callbacks may wait for other processes, and the average belongs to the finished step.
        own.insert(0, ExponentialMovingAverage(cfg.ema_decay))
    configured = build_callbacks(cfg)
    if any(isinstance(callback, LearningRateRange) for callback in configured):
        # The largest rates may well give a loss that is not finite, which ends the test and is no error.
        own = [callback for callback in own if not isinstance(callback, FiniteLossGuard)]
    last = LastCheckpoint(cfg.checkpointing_dir, signals, keep=not flags.DEBUG)
    if flags.DEBUG:
        configured = without_checkpoints(configured)
    return [*own, *configured, ProgressDisplay(train_log), last]


def is_automatic(cfg: DictConfig) -> bool:
    """Whether the settings were chosen to fit a person's own data."""
    return bool(OmegaConf.select(cfg, AUTOMATIC))


def describe_run(
    session: Session,
    harness: Harness,
    trainer: Trainer,
    length: Length | None = None,
    expected: str = "",
    origin: Origin | None = None,
) -> None:
    """Print what is about to run: choices, sizes, device, folder, and the expected time if it is known."""
    if not trainer.is_global_zero:
        return
    cfg = session.cfg
    total = num_parameters(harness)
    parts = ", ".join(f"{name} {num_parameters(m):,}" for name, m in shown_parts(harness))
    steps = f"{trainer.max_steps} ({length.reason})" if length else str(trainer.max_steps)
    if verdict_of(trainer) is not None:
        steps = f"at most {steps}, until the batch is learnt"
    global_batch = cfg.per_device_batch_size * trainer.world_size * trainer.accumulate_grad_batches
    lines = {
        "run": display_path(session.run_dir),
        "model": f"{type(harness.model).__name__}, {total:,} parameters ({parts})",
        "data": ", ".join(f"{split}: {'+'.join(names)}" for split, names in loaders(session).items()),
        "tokens": vocabulary(session.tokenizer),
        "batch": f"{global_batch} ({cfg.per_device_batch_size} per device × {trainer.world_size} × "
        f"{trainer.accumulate_grad_batches} accumulated)",
        "steps": f"{steps}, {short_name(cfg.optimizer)} lr {cfg.optimizer.get('lr', 'default')}, "
        f"{short_name(cfg.lr_scheduler) if cfg.lr_scheduler else 'no schedule'}",
        "device": f"{trainer.strategy.root_device}, {trainer.precision}, seed {cfg.seed}",
        "note": compile_note(cfg.get("compile", False), trainer.strategy.root_device.type),
    }
    lines |= own_data_lines(session, expected)
    if origin is not None:
        lines["from"] = "\n         ".join(origin.lines())
    for name, text in lines.items():
        if not text:
            continue
        start, *below = sentence_lines(f"{name:>7}  {text}", width_of(session.console), indent=" " * 9)
        shown = Text("\n").join([Text.assemble((start[:7], "bold"), start[7:]), *map(Text, below)])
        session.console.print(shown, highlight=False, soft_wrap=True)


def vocabulary(tokenizer: Any) -> str:
    """The size of the vocabulary, and the special tokens that a pretrained tokenizer lacked; "" if it is unknown."""
    size = getattr(tokenizer, "full_vocab_size", None)
    added = [str(token) for token in getattr(tokenizer, "added_special_tokens", ())]
    if size is None:
        return ""
    return f"{size:,} in the vocabulary" + (f", including the added {', '.join(added)}" if added else "")


def shown_parts(harness: Harness) -> list[tuple[str, nn.Module]]:
    """The parts that the harness names; the whole model is replaced by its children."""
    return [
        part
        for name, module in harness.top_level_named_modules()
        for part in (module.named_children() if module is harness.model else [(name, module)])
    ]


def short_name(node: DictConfig) -> str:
    """The name of an optimizer or a schedule: its `name`, else its class."""
    return str(node.get("name") or node.get("_target_", "unnamed")).rpartition(".")[-1]


def cost_line(training: dict[str, Any]) -> str:
    """The cost of training, as a line."""
    speed = training["tokens_per_second"]
    parts = [f"Trained in {duration(training['wall_seconds'])} ({duration(training['cpu_seconds'])} CPU)"]
    parts += [] if speed is None else [f"{speed:,.0f} tokens/s"]
    return f"{', '.join(parts)}, at most {training['peak_memory_mib']:,.0f} MiB of memory."


def loaders(session: Session) -> dict[str, list[str]]:
    """Names of the configured loaders by split."""
    return {split: list(names.values()) for split, names in session.datamodule.dataloader_names.items() if names}


def is_tested(session: Session) -> bool:
    """Whether a run ends with a test."""
    return bool(session.cfg.test_after_training and session.datamodule.dataloader_names.get("test"))


def load_averaged(harness: Harness, trainer: Trainer, path: Path) -> None:
    """Load a checkpoint's averaged weights, or raw ones if it has no average, into the harness permanently."""
    load_weights(harness, select_weights(load_checkpoint(path), apply_ema=True), path)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExponentialMovingAverage):
            callback.forget()  # the average of the last step must not replace these


def draw_curves_of(trainer: Trainer, run_dir: Path, title: str) -> Path | None:
    """Draw the run's curves, with its best checkpoint if it keeps one."""
    kept = next((c for c in trainer.callbacks if isinstance(c, BestCheckpoint)), None)  # type: ignore[attr-defined]
    monitor, mode = (kept.monitor, kept.mode) if kept is not None else (None, "min")
    return draw_curves(run_dir / "metrics.csv", run_dir / "curves.png", title, monitor, mode)


def finish(
    session: Session, harness: Harness, trainer: Trainer, record: dict[str, Any], estimates: Estimates
) -> dict[str, float]:
    """Draw the curves, test the chosen weights, print and write the results with their standard errors."""
    cfg = session.cfg
    run_dir = session.run_dir
    metrics = dict(estimates.values)
    # The newest losses of a mixture's parts, and their shares in the whole run.
    logged = next((c.latest for c in trainer.callbacks if isinstance(c, TrainLog)), {})  # type: ignore[attr-defined]
    parts = {name: value for name, value in logged.items() if name.endswith(f"/{LOSS}")}
    parts |= shares_of_run(trainer.train_dataloader, list(session.datamodule.dataloader_names["train"].values()))
    curves = draw_curves_of(trainer, run_dir, cfg.job_name) if trainer.is_global_zero else None
    measured: dict[str, Measured] = {}
    if is_tested(session):
        weights = Path(cfg.checkpointing_dir) / BEST
        if cfg.test_weights == "best" and is_checkpoint(weights) and not flags.DEBUG:
            load_averaged(harness, trainer, weights)
            record["weights"] = str(weights)
        traced: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if is_automatic(cfg):
            likelihood = LikelihoodPass(None)
            measured = likelihood.measured
            trainer.callbacks.append(likelihood)  # type: ignore[attr-defined]
            traced = tracing(session, harness, weights, Trace())
        with traced:
            trainer.test(harness, datamodule=session.datamodule, verbose=False)
        metrics |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    metrics |= parts
    if trainer.is_global_zero and metrics:
        counts, results = estimates.counts, estimates.record(metrics)
        record |= {"likelihood": {place: found.record() for place, found in measured.items()}} if measured else {}
        write_results(
            run_dir / "results.json",
            {**record, "step": trainer.global_step, "results": results, "metrics": metrics, "n": counts},
        )
        print_results(f"{cfg.job_name}, step {trainer.global_step}", metrics, counts, session.console, results)
        print_likelihoods(measured, session.console)
        session.console.print(cost_line(record["training"]), highlight=False)
        where = f", the curves in {display_path(curves)}" if curves else ""
        session.console.print(f"All files are in {display_path(run_dir)}{where}.", soft_wrap=True)
    return metrics

"""Builds the live objects of a command from a composed config, in the required order."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from xlm import flags
from xlm.data.steps import plain
from xlm.data.tokenizers import is_standard
from xlm.datamodule import TextDataModule
from xlm.errors import ConfigError
from xlm.external_models import active_models
from xlm.harness import Harness
from xlm.inference.allowed import remember_own
from xlm.reports.files import read_mapping
from xlm.training.background import BackgroundCheckpointIO
from xlm.training.checkpoints import AtomicCheckpointIO
from xlm.training.ranks import RankMonitor
from xlm.training.weights import TOKENIZER
from xlm.utils.annotations import display_value
from xlm.utils.consoles import plain_console
from xlm.utils.files import replace_text
from xlm.utils.instantiate import check_values, clear_components, instantiate, set_component
from xlm.utils.rank_zero import RankedLogger, is_first_process
from xlm.utils.run_record import code_digests, run_record
from xlm.utils.secrets import without_secrets
from xlm.utils.slurm import is_task, num_tasks

log = RankedLogger(__name__, rank_zero_only=True)

# Lightning's advice that does not apply here, with reasons.
QUIET = (
    r".*does not have many workers.*",  # collating star graphs is faster than training on them
    r".*The number of training batches .* is smaller than the logging interval.*",  # debug=overfit has one batch
    r".*Checkpoint directory .* exists and is not empty.*",  # a continued run has one
    r".*recommended to use .self.log.*sync_dist=True.*",  # the values are computed from all processes already
    r".*The `srun` command is available on your system.*",  # a person's own machine may have it
    r".*treespec, LeafSpec.*",  # lightning 2.6 calls a function that torch 2.13 deprecates
)


_NOTHING = contextlib.nullcontext()


class NoProfiler(PassThroughProfiler):
    """Times nothing. Lightning enters it about a hundred times a step, for every hook of every callback."""

    def profile(self, action_name: str) -> Any:
        return _NOTHING


@dataclass
class Session:
    """The tokenizer, the datamodule and the console of a command."""

    cfg: DictConfig
    tokenizer: Any
    datamodule: TextDataModule
    console: Console

    @property
    def run_dir(self) -> Path:
        return Path(self.cfg.paths.run_dir)

    @property
    def config_yaml(self) -> str:
        """The composed config as YAML, with interpolations and without secrets."""
        return without_secrets(OmegaConf.to_yaml(self.cfg, resolve=False))

    def harness(self) -> Harness:
        """A new module with fresh weights."""
        return build_harness(self.cfg, self.tokenizer, self.datamodule)

    def trainer(self, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
        """Lightning's Trainer from `cfg.trainer`; ConfigError for values that it rejects now or would reject later."""
        check_trainer(self.cfg.trainer)
        check_sharding(self.cfg)
        trainer = instantiate(
            self.cfg.trainer,
            callbacks=[*callbacks, RankMonitor(self.cfg.get("rank_timeout", 180), self.cfg.get("step_timeout", 1500))],
            logger=loggers or False,
            enable_progress_bar=False,
            **({} if self.cfg.trainer.get("profiler") else {"profiler": NoProfiler()}),
            plugins=[self._checkpoint_io(), *own_environment(os.environ)],
            _convert_="all",
        )
        assert isinstance(trainer, Trainer)
        return trainer

    def _checkpoint_io(self) -> CheckpointIO:
        writer = AtomicCheckpointIO()
        return BackgroundCheckpointIO(writer) if self.cfg.get("async_checkpoints") else writer

    def write_record(self, trainer: Trainer, job: str, **more: Any) -> dict[str, Any]:
        """Write the config and a record of what the numbers depend on into the run's folder; returns the record.

        `more` is added to the record.
        """
        from xlm.training.progress import write_results

        config_yaml = self.config_yaml
        record = run_record(config_yaml, self.cfg.seed, trainer.strategy.root_device.type, Path.cwd())
        record["precision"] = str(trainer.precision)
        record["job_type"] = job
        record["code"] = code_of_run()
        record |= more
        if trainer.is_global_zero:
            if job == "train":
                remember_own(self.cfg)
            # config.yaml keeps the settings of training.
            name = "config.yaml" if job == "train" else f"config_{job}.yaml"
            replace_text(self.run_dir / name, config_yaml)
            # A moved run needs neither the data and the cache nor the hub to read and write text.
            own, standard = getattr(self.tokenizer, "belongs_to_run", False), is_standard(self.tokenizer)
            if job == "train" and (own or standard):
                self.tokenizer.save_pretrained(str(self.run_dir / TOKENIZER))
            path = self.run_dir / f"record_{job}.json"
            if job == "train" and (others := other_starts(read_mapping(path, []), record)):
                record["other_starts"] = others
            write_results(path, record)
        return record


def code_of_run() -> dict[str, str]:
    """Fingerprints of the source files of core and of the active models."""
    folders = {model.import_name: model.package_dir for model in active_models().values()}
    return code_digests({"xlm": Path(__file__).parents[1], **folders})


# What two starts of one run can differ in.
CIRCUMSTANCES = ("config_hash", "git", "versions", "device", "hardware", "code", "precision")


def other_starts(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """The earlier starts of a run under other circumstances, from the record of its last start; one of each kind."""
    found = list(before.get("other_starts") or [])
    if before:
        found.append({name: before[name] for name in ("started", *CIRCUMSTANCES) if name in before})
    kept: list[dict[str, Any]] = []
    for start in found:
        if all(any(start.get(name) != other.get(name) for name in CIRCUMSTANCES) for other in (now, *kept)):
            kept.append(start)
    return kept


# Values that make Lightning fail during training or do nothing: key, minimum, whether the minimum is allowed.
_LEAST = (
    ("val_check_interval", 0, False),
    ("check_val_every_n_epoch", 0, False),
    ("log_every_n_steps", 0, True),
    ("gradient_clip_val", 0, True),
)

SHARDED_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


def check_sharding(cfg: DictConfig) -> None:
    """ConfigError for settings that `trainer_strategy=fsdp2` cannot combine with."""
    strategy = cfg.trainer.get("strategy")
    if not isinstance(strategy, DictConfig) or not str(strategy.get("_target_")).endswith(".FSDP2Strategy"):
        return
    if cfg.get("async_checkpoints"):
        raise ConfigError(
            "async_checkpoints=true cannot write the checkpoints of trainer_strategy=fsdp2, which each process writes "
            "in part. Set async_checkpoints=false.",
            key="async_checkpoints",
        )
    precision = cfg.trainer.get("precision")
    if precision not in (None, *SHARDED_PRECISIONS):
        raise ConfigError(
            f"trainer.precision is {precision}, and trainer_strategy=fsdp2 takes one of: "
            f"{', '.join(SHARDED_PRECISIONS)}.",
            key="trainer.precision",
        )


def check_trainer(trainer: DictConfig) -> None:
    """ConfigError for an interval of the Trainer below its minimum."""
    for name, least, allowed in _LEAST:
        value = trainer.get(name)
        if isinstance(value, int | float) and (value < least or (value == least and not allowed)):
            limit = f"at least {least}" if allowed else f"above {least}"
            raise ConfigError(f"trainer.{name} is {value}, and must be {limit}.", key=f"trainer.{name}")


class SlurmTasks(SLURMEnvironment):
    """The ranks that `srun` gave to its tasks; ConfigError if they are not those of `trainer.devices` and `num_nodes`.

    A job is requeued by `xlm.training.requeue`: Lightning would save in the middle of a step.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_variables() -> None:
        """Lightning refuses `--ntasks=4` without `--ntasks-per-node`; the number of processes is checked below."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        tasks, nodes = self.world_size(), int(os.environ.get("SLURM_NNODES") or 1)
        if (num_devices * num_nodes, num_nodes) != (tasks, nodes):
            per_node = tasks // nodes
            raise ConfigError(
                f"srun started {tasks} tasks on {nodes} {'node' if nodes == 1 else 'nodes'}, but trainer.devices="
                f"{num_devices} and trainer.num_nodes={num_nodes} make {num_devices * num_nodes} processes. "
                f"Set trainer.devices={per_node} trainer.num_nodes={nodes}, or #SBATCH --nodes={num_nodes} "
                f"--ntasks-per-node={num_devices}.",
                key="trainer.devices",
            )


def own_environment(environ: Mapping[str, str]) -> list[ClusterEnvironment]:
    """The source of ranks in a SLURM allocation: the tasks of `srun`, or one process that starts its own.

    A shell of `salloc` and the script of `sbatch` have SLURM_NTASKS too. Lightning would treat such a process as one
    of many and wait for the others, or miss the variables that only `srun` sets.
    """
    if "SLURM_NTASKS" not in environ or TorchElasticEnvironment.detect():
        return []
    if is_task(environ):
        return [SlurmTasks()]
    if num_tasks(environ) > 1:
        log.warning(
            f"This SLURM allocation has {num_tasks(environ)} tasks, but xlm was started without srun: it runs alone, "
            "with trainer.devices. To use all tasks, write srun before the command."
        )
    return [LightningEnvironment()]


def quiet_libraries() -> None:
    """Silence the messages that libraries print at every start, but not their real warnings."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in QUIET:
        warnings.filterwarnings("ignore", message=pattern)


def start(cfg: DictConfig, tokenizer_folder: Path | None = None, tokenizer: Any = None) -> Session:
    """Set seed and flags; build tokenizer (unless given, or from its folder), noise schedule and datamodule."""
    quiet_libraries()
    clear_components()
    flags.set_flags(cfg.get("global_flags") or {})
    seed_everything(cfg.seed, workers=True, verbose=False)
    tokenizer = build_components(cfg, tokenizer_folder, tokenizer)["tokenizer"]
    check_values(cfg.get("collators"))  # also those that no dataset of this run uses
    datamodule = instantiate(cfg.datamodule)
    assert isinstance(datamodule, TextDataModule)
    set_component("datamodule", datamodule)
    # What a command says is said once, however many processes run it.
    return Session(cfg, tokenizer, datamodule, plain_console(quiet=not is_first_process()))


def build_components(cfg: DictConfig, tokenizer_folder: Path | None = None, tokenizer: Any = None) -> dict[str, Any]:
    """Build the tokenizer (unless given), noise schedule and other `global_components`: the process's live objects.

    The tokenizer comes first, since the others may refer to it.
    """
    live = {"tokenizer": build_tokenizer(cfg, tokenizer_folder) if tokenizer is None else tokenizer}
    set_component("tokenizer", live["tokenizer"])
    for name, node in cfg.global_components.items():
        if name != "tokenizer":
            live[str(name)] = instantiate(_component(str(name), node))
            set_component(str(name), live[str(name)])
    return live


def build_harness(cfg: DictConfig, tokenizer: Any, datamodule: TextDataModule | None) -> Harness:
    """The Lightning module that the configuration names, with fresh weights."""
    module = instantiate(cfg.lightning_module, cfg, tokenizer=tokenizer, datamodule=datamodule, _recursive_=False)
    assert isinstance(module, Harness)
    return module


def _component(name: str, node: Any) -> Any:
    if node and not isinstance(node, DictConfig):
        key, value = f"global_components.{name}", plain({name: node})[name]
        raise ConfigError(f"{key} is {display_value(value)}, and must be a mapping with a _target_, or null.", key=key)
    return node or None


def build_tokenizer(cfg: DictConfig, folder: Path | None = None) -> Any:
    """The tokenizer from the files in a folder, else from the configuration."""
    if folder is None:
        return instantiate(cfg.global_components.tokenizer)
    from xlm.datamodule import load_auto_tokenizer

    return load_auto_tokenizer(str(folder))


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """All loggers of `cfg.loggers`, without null entries."""
    return [instantiate(node) for node in (cfg.get("loggers") or {}).values() if node]


def display_path(path: Path) -> str:
    """A path, relative if it is below the current directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    """All callbacks of `cfg.callbacks`, without null entries."""
    return [instantiate(node) for name, node in (cfg.get("callbacks") or {}).items() if node]


def fewer_than_asked(option: str, asked: int | None, found: int, of: str) -> str:
    """A sentence for a request of more items than there are, named by `of`; empty if there are enough."""
    if asked is None or found >= asked:
        return ""
    return f"{option} is {asked:,}, but there are only {found:,} {of}; all of them are used."

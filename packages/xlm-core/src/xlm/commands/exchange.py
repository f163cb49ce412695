"""`xlm extract_checkpoint` and `xlm push_to_hub`: export a checkpoint as weights, configuration and tokenizer."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.compose.checks import read_section
from xlm.errors import CheckpointError, ConfigError, of_option
from xlm.inference.session import display_path, quiet_libraries
from xlm.inference.sources import Source, chosen_weights
from xlm.inference.trained import TrainedModel, load_source
from xlm.schemas import CHECKPOINT_SECTIONS, Checkpoint, Extract, Hub
from xlm.training.weights import check_new
from xlm.utils.consoles import plain_console
from xlm.utils.files import output_folder
from xlm.utils.weight_files import check_shard_size, is_weights_alone


def extract(cfg: DictConfig) -> Path:
    """Write the model of `extract.checkpoint_path`, or of the run, into `extract.output_dir`; returns that folder.

    Raises:
        ConfigError: an unknown option, a bad value, or a format that this network doesn't support.
        CheckpointError: the checkpoint is missing or doesn't fit, or the folder is not empty.
    """
    options = read_section(cfg, Extract)
    default = Path(cfg.paths.run_dir) / "extracted"
    with of_option("extract.output_dir"):
        folder = check_new(
            output_folder(default if options.output_dir is None else options.output_dir, "extract.output_dir")
        )
    size = _shard_size(options)
    model, what = _loaded(cfg, "extract", options)
    if options.format == "transformers":
        model.save_for_transformers(folder, size)
    else:
        model.save_pretrained(folder, size)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    console = plain_console()
    console.print(f"{what} as {len(files)} files in {display_path(folder)}:", soft_wrap=True, highlight=False)
    for path in files:
        console.print(f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes", soft_wrap=True, highlight=False)
    return folder


def push(cfg: DictConfig) -> str:
    """Upload the model of `hub.checkpoint_path`, or of the run, to `hub.repo_id`; returns the hub's answer.

    Raises:
        ConfigError: no repository is named, an unknown option, or a bad value.
        CheckpointError: the checkpoint is missing or doesn't fit, or the hub refuses the upload.
    """
    options = read_section(cfg, Hub)
    if not options.repo_id:
        raise ConfigError("push_to_hub needs a repository: hub.repo_id=owner/name.", key="hub.repo_id")
    size = _shard_size(options)
    model, what = _loaded(cfg, "hub", options)
    message = str(options.commit_message or "Upload model")
    answer = model.push_to_hub(str(options.repo_id), message, options.private, size)
    plain_console().print(f"{what}: {answer}", soft_wrap=True, highlight=False)
    return answer


def _shard_size(options: Extract | Hub) -> int | str | None:
    size = options.max_shard_size
    return None if size is None else check_shard_size(size, f"{options.section}.max_shard_size")


def _loaded(cfg: DictConfig, section: str, options: Checkpoint) -> tuple[TrainedModel, str]:
    """The model with the chosen weights, and a line that describes the weights."""
    quiet_libraries()
    weights = chosen_weights(cfg, section)
    alone, averaged = is_weights_alone(weights.path), weights.has_averages
    if _asks_for_averages(cfg, section) and not alone and not averaged:
        raise CheckpointError(f"{weights.path} has no averaged weights: its run had no ema_decay.", path=weights.path)
    source = Source(weights.path, _as_trained(cfg), weights.checkpoint, weights.tokenizer, weights.is_remote)
    kind = "weights" if alone else "averaged weights" if averaged and options.apply_ema else "raw weights"
    return load_source(source, apply_ema=options.apply_ema), f"The {kind} of {display_path(weights.path)}"


def _asks_for_averages(cfg: DictConfig, section: str) -> bool:
    """Whether apply_ema was set explicitly; by default averaged weights are used if there are any."""
    return bool((cfg.get(section) or {}).get("apply_ema"))


def _as_trained(cfg: DictConfig) -> DictConfig:
    """The configuration without the sections of this job."""
    config = cfg.copy()
    OmegaConf.set_struct(config, False)
    with open_dict(config):
        config.job_type = "train"
        for section in CHECKPOINT_SECTIONS:
            config.pop(section, None)
    return config

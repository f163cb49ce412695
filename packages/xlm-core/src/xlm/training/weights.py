"""Loading and saving weights: checkpoints or safetensors, averaged or raw, and the folder to share a model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from lightning.pytorch import LightningModule
from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from xlm.errors import CheckpointError, CheckpointMismatchError, ConfigError, StorageError
from xlm.model import Model, load_safetensors
from xlm.protocols import StandaloneModel, TransformersModel
from xlm.training.card import Origin, model_card
from xlm.training.ema import averaged_state_dict
from xlm.training.resume import load_checkpoint
from xlm.training.sharding import load_full
from xlm.utils.files import temporary_beside, writing
from xlm.utils.rank_zero import RankedLogger
from xlm.utils.secrets import without_secrets
from xlm.utils.weight_files import WEIGHTS, check_shard_size, is_weights_alone, split_weights, without_wrappers

log = RankedLogger(__name__, rank_zero_only=True)


def load_from(harness: LightningModule, path: str | Path, apply_ema: bool = True) -> None:
    """Load a `.ckpt` of the harness, or safetensors (one file, or an index of shards) of its model only.

    Args:
        harness: the target; for safetensors, its `model`.
        path: the file.
        apply_ema: use the averaged weights if the checkpoint has them.
    """
    if is_weights_alone(path):
        model = harness.model
        assert isinstance(model, nn.Module)
        load_safetensors(model, path)
    else:
        load_weights(harness, select_weights(load_checkpoint(path), apply_ema), path)


def select_weights(checkpoint: dict[str, Any], apply_ema: bool) -> dict[str, torch.Tensor]:
    """The averaged weights of a checkpoint if `apply_ema` and it has them, otherwise the raw ones."""
    averaged = averaged_state_dict(checkpoint) if apply_ema else None
    return averaged if averaged is not None else dict(checkpoint["state_dict"])


def check_fits(module: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Raise `CheckpointMismatchError` with the keys and shapes that differ between a state dict and a module."""
    own = module.state_dict()
    missing = sorted(name for name in own.keys() - state_dict.keys() if not is_derived(name))
    unexpected = sorted(name for name in state_dict.keys() - own.keys() if not is_derived(name))
    shapes = {
        name: (tuple(state_dict[name].shape), tuple(own[name].shape))
        for name in sorted(own.keys() & state_dict.keys())
        if state_dict[name].shape != own[name].shape
    }
    if missing or unexpected or shapes:
        raise CheckpointMismatchError(source, missing=missing, unexpected=unexpected, shapes=shapes)


def is_derived(name: str) -> bool:
    """Rotary frequencies follow from the sizes, so it doesn't matter under which name a checkpoint stores them."""
    return name.endswith("rotary_emb.inv_freq")


def load_weights(module: nn.Module, state_dict: dict[str, torch.Tensor], source: str | Path) -> None:
    """Load a state dict into a module; names of wrappers are ignored. If it doesn't fit, nothing is changed."""
    state_dict = without_wrappers(state_dict, module.state_dict(), source)
    check_fits(module, state_dict, source)
    load_full(module, state_dict)


def save_weights(model: nn.Module, path: str | Path, overwrite: bool = False) -> Path:
    """Write a model's weights as safetensors.

    Raises:
        CheckpointError: if the file exists and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} already exists. Nothing was written.")
    temporary = temporary_beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_model(model, str(temporary), metadata={"format": "pt"})  # tied weights are written once
            temporary.replace(path)
        except SafetensorError as error:
            raise StorageError(f"{path} cannot be written: {error}.", path=path) from error
        finally:
            temporary.unlink(missing_ok=True)
    return path


CONFIG = "xlm_config.yaml"
TOKENIZER = "tokenizer"
CARD = "README.md"


@runtime_checkable
class SavedTokenizer(Protocol):
    """A tokenizer that can save its own files, like those of transformers."""

    def save_pretrained(self, save_directory: str) -> Any: ...


def check_new(folder: str | Path) -> Path:
    """The folder if it is new or empty; otherwise CheckpointError."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} already exists and is not an empty folder. Nothing was written.", path=folder)
    return folder


def save_folder(
    folder: str | Path,
    model: Any,
    config: DictConfig,
    tokenizer: Any,
    max_shard_size: int | str | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write everything that `xlm.load` needs to a new or empty folder.

    The configuration is written as composed, with its interpolations. A network with the `xlm.model.Model` mixin also
    gets its own config.json, so that its `from_pretrained` can read the folder. Other files from which a network was
    built (`xlm.protocols.StandaloneModel`) are not needed any more.

    Args:
        folder: the target.
        model, config, tokenizer: the objects of a run.
        max_shard_size: bytes, or "5GB": larger weights are written as several files with an index; None for one file.
        origin: where the weights come from, for README.md.

    Raises:
        CheckpointError: the folder is not empty; ConfigError: the size is invalid.
    """
    folder = check_new(folder)
    if max_shard_size is not None:
        check_shard_size(max_shard_size)
    folder.mkdir(parents=True, exist_ok=True)
    alone = model.standalone_arguments() if isinstance(model, StandaloneModel) else None
    if alone is not None:
        config = config.copy()
        with open_dict(config):
            config.model.update(alone)
    if isinstance(model, Model):
        model.save_pretrained(folder, config=alone)
    else:
        save_weights(model, folder / WEIGHTS)
    if max_shard_size is not None:
        split_weights(folder / WEIGHTS, max_shard_size)
    (folder / CONFIG).write_text(without_secrets(OmegaConf.to_yaml(config, resolve=False)), encoding="utf-8")
    if isinstance(tokenizer, SavedTokenizer):
        tokenizer.save_pretrained(str(folder / TOKENIZER))
    # Instead of the generic text of the hub's mixin.
    (folder / CARD).write_text(model_card(config, model, tokenizer, origin or Origin()), encoding="utf-8")
    return folder


def save_for_transformers(
    folder: str | Path, model: Any, tokenizer: Any, max_shard_size: int | str | None = None
) -> Path:
    """Write a network that transformers supports in the format of its `from_pretrained`, with the tokenizer's files.

    Raises:
        ConfigError: transformers has no equivalent network.
        CheckpointError: the folder is not empty.
    """
    folder = check_new(folder)
    if not isinstance(model, TransformersModel):
        raise ConfigError(
            f"transformers has no network equivalent to {type(model).__name__}. Use extract.format=xlm instead.",
            key="extract.format",
        )
    exported = model.for_transformers()
    generation = getattr(exported, "generation_config", None)
    # The run chooses BOS and EOS itself. The pad id is kept: some networks compute positions from it.
    for name in ("bos_token_id", "eos_token_id"):
        for config in (exported.config, *([] if generation is None else [generation])):
            setattr(config, name, getattr(tokenizer, name))
    exported.save_pretrained(folder, **({} if max_shard_size is None else {"max_shard_size": max_shard_size}))
    if isinstance(tokenizer, SavedTokenizer):
        tokenizer.save_pretrained(str(folder))
    return folder


def push_folder(
    repo_id: str,
    model: Any,
    config: DictConfig,
    tokenizer: Any,
    commit_message: str,
    private: bool | None = None,
    max_shard_size: int | str | None = None,
    origin: Origin | None = None,
) -> str:
    """Upload such a folder to a model repository of the hub, created if needed; returns the hub's answer.

    CheckpointError if the hub cannot be reached or rejects the upload.
    """
    with TemporaryDirectory() as temporary:
        folder = save_folder(Path(temporary) / "model", model, config, tokenizer, max_shard_size, origin)
        api = HfApi()
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))
        except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise CheckpointError(f"The model could not be uploaded to '{repo_id}': {reason}.") from error

"""The folder that a trained model is shared as: weights, the run's configuration, and the tokenizer if it has files."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

from huggingface_hub import HfApi
from omegaconf import DictConfig, OmegaConf

from xlm.errors import CheckpointError
from xlm.model import Model
from xlm.training.weights import save_weights

WEIGHTS = "model.safetensors"
CONFIG = "xlm_config.yaml"
TOKENIZER = "tokenizer"


@runtime_checkable
class SavedTokenizer(Protocol):
    """A tokenizer that writes files of its own, as those of transformers do."""

    def save_pretrained(self, save_directory: str) -> Any: ...


def save_folder(folder: str | Path, model: Any, config: DictConfig, tokenizer: Any) -> Path:
    """Write all that `xlm.load` needs into a folder that is new or empty.

    The configuration is written as it was composed, interpolations kept. A network with the `xlm.model.Model` mixin
    gets its own config.json too, so that its `from_pretrained` reads the folder.

    Raises:
        CheckpointError: there is something in the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} already exists and is not an empty folder. Nothing was written.", path=folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, Model):
        model.save_pretrained(folder)
    else:
        save_weights(model, folder / WEIGHTS)
    (folder / CONFIG).write_text(OmegaConf.to_yaml(config, resolve=False))
    if isinstance(tokenizer, SavedTokenizer):
        tokenizer.save_pretrained(str(folder / TOKENIZER))
    return folder


def push_folder(
    repo_id: str, model: Any, config: DictConfig, tokenizer: Any, commit_message: str, private: bool | None = None
) -> str:
    """Upload such a folder to a model repository of the hub, made if it doesn't exist; returns what the hub answers."""
    with TemporaryDirectory() as temporary:
        folder = save_folder(Path(temporary) / "model", model, config, tokenizer)
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))

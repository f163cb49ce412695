"""A mixin for networks: saving, loading and sharing, and the choice of parameters with weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from xlm.errors import CheckpointMismatchError
from xlm.modules.layers import ShortConvolution
from xlm.utils.weight_files import INDEX, WEIGHTS, read_index, read_weights, weights_in, without_wrappers

# Hydra passes its own containers; config.json needs plain values.
_CODERS = {DictConfig: (OmegaConf.to_container, dict), ListConfig: (OmegaConf.to_container, list)}


class Model(PyTorchModelHubMixin):
    """`class X(torch.nn.Module, Model)`: save_pretrained, from_pretrained, push_to_hub, and weight-decay groups.

    JSON-able arguments of `__init__` are saved in config.json; others must be given to `from_pretrained` again.
    Weights are one safetensors file; shards with an index can be read too.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        kwargs.setdefault("coders", _CODERS)
        super().__init_subclass__(**kwargs)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        **model_kwargs: Any,
    ) -> Model:
        """Called by `from_pretrained`; the weights must fit exactly unless strict is False."""
        model = cast(nn.Module, cls(**model_kwargs))

        def fetched(name: str) -> Path:
            return Path(
                hf_hub_download(
                    repo_id=model_id,
                    filename=name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    token=token,
                    local_files_only=local_files_only,
                )
            )

        if Path(model_id).is_dir():
            path = weights_in(Path(model_id)) or Path(model_id) / WEIGHTS
        else:
            try:
                path = fetched(WEIGHTS)
            except EntryNotFoundError:
                path = fetched(INDEX)
                for shard in sorted(set(read_index(path).values())):
                    fetched(shard)
        load_safetensors(model, path, map_location, strict)
        return cast(Model, model.eval())

    def get_named_params_for_weight_decay(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters with weight decay: matrices of linear maps and all others outside the second group."""
        model = cast(nn.Module, self)
        undecayed = _undecayed(model)
        return ((name, p) for name, p in model.named_parameters() if id(p) not in undecayed)

    def get_named_params_for_no_weight_decay(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters without weight decay: biases, norms and other vectors, short convolutions, (tied) embeddings."""
        model = cast(nn.Module, self)
        undecayed = _undecayed(model)
        return ((name, p) for name, p in model.named_parameters() if id(p) in undecayed)


def _undecayed(model: nn.Module) -> set[int]:
    """Identities of the parameters without weight decay: vectors, tensors of several vectors, and embedding tables."""
    vectors = {id(p) for p in model.parameters() if p.ndim < 2}
    kinds = nn.Embedding | nn.EmbeddingBag | ShortConvolution
    parts = (m for m in model.modules() if isinstance(m, kinds))
    return vectors | {id(p) for m in parts for p in m.parameters(recurse=False)}


def load_safetensors(model: nn.Module, path: str | Path, map_location: str = "cpu", strict: bool = True) -> None:
    """Load safetensors, one file or an index of shards, into a model.

    Tied weights, which are stored once, are loaded under all their names. Prefixes of wrappers (DDP, FSDP,
    torch.compile) are ignored.

    Raises:
        CheckpointError: the file does not exist, or a shard is missing.
        CheckpointCorruptError: it cannot be read.
        CheckpointMismatchError: keys (unless strict is False) or shapes differ; the model is partly loaded only if
            keys differ.
    """
    own = model.state_dict()
    state_dict = without_wrappers(read_weights(path, map_location), own, path, owner="model.")
    fill_tied(state_dict, own)
    shapes = {
        name: (tuple(tensor.shape), tuple(own[name].shape))
        for name, tensor in state_dict.items()
        if name in own and tensor.shape != own[name].shape
    }
    if shapes:
        raise CheckpointMismatchError(path, shapes=shapes)
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    if strict and (missing or unexpected):
        raise CheckpointMismatchError(path, missing=missing, unexpected=unexpected)


def fill_tied(state_dict: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Copy each stored tensor of the file to all names that share it."""
    found = {own[name].data_ptr(): name for name in state_dict if name in own and own[name].numel()}
    for name, tensor in own.items():
        if name not in state_dict and tensor.numel() and tensor.data_ptr() in found:
            shared = found[tensor.data_ptr()]
            if own[shared].shape == tensor.shape:
                state_dict[name] = state_dict[shared]

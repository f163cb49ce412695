"""`trainer_strategy=fsdp2`: parameters, gradients, optimizer state and averages are split over all processes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.distributed_c10d import default_pg_timeout
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from xlm.errors import ConfigError
from xlm.training.blocks import blocks
from xlm.training.resume import load_checkpoint
from xlm.training.sharded_checkpoints import is_sharded, load_shards, save_shards

_STEPS = ("training_step", "validation_step", "test_step", "predict_step", "prepare_shards")


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy` with all processes in its data-parallel dimension, on CUDA or the CPU.

    Each block of the network (see `xlm.training.blocks`) is gathered for its forward and its backward pass; everything
    else is gathered for the whole step, so a loss may use embeddings and output layers as it likes. Checkpoints are
    folders with one file per process (see `xlm.training.sharded_checkpoints`).

    Args:
        reshard_after_forward: free a block's gathered weights between its forward and its backward pass. False saves
            communication and needs memory for all weights.
        process_group_backend: of torch.distributed; None for NCCL on CUDA and gloo on the CPU.
        timeout: of a collective operation.
    """

    def __init__(
        self,
        reshard_after_forward: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        if self.root_device.type not in ("cpu", "cuda"):
            raise ConfigError(
                f"trainer_strategy=fsdp2 cannot use the device '{self.root_device.type}', only cuda or cpu. "
                "Set trainer.accelerator=cpu.",
                key="trainer_strategy",
            )
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write the folder; all processes must call this."""
        save_shards(checkpoint, Path(self.broadcast(str(filepath))), tied_names(self.lightning_module))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a folder, or a file of a run with another strategy, into the shards of this process."""
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        path = Path(self.broadcast(str(checkpoint_path)))
        module = self.lightning_module
        assert module is not None
        if not is_sharded(path):
            return self._load_file(path)
        checkpoint = load_shards(path, dict(module.named_parameters()))
        module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
        for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=False):
            set_optimizer_state_dict(module, optimizer, optim_state_dict=state)
        return checkpoint

    def _load_file(self, path: Path) -> dict[str, Any]:
        """Load the checkpoint of a run that was not sharded; every process reads all of it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        module = self.lightning_module
        assert module is not None
        checkpoint = load_checkpoint(path)
        load_full(module, checkpoint["state_dict"])
        names = {id(p): name for name, p in module.named_parameters()}
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=False):
            # A state numbers the parameters in the order of the optimizer's groups.
            numbered = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
            by_name: dict[str, Any] = {
                "state": {numbered[number]: values for number, values in state["state"].items()},
                "param_groups": [
                    {**group, "params": [numbered[number] for number in group["params"]]}
                    for group in state["param_groups"]
                ],
            }
            set_optimizer_state_dict(module, optimizer, optim_state_dict=by_name, options=options)
        return checkpoint


def shard(module: LightningModule, network: nn.Module, reshard_after_forward: bool = True) -> None:
    """Split the parameters of a Lightning module over the data-parallel dimension of its device mesh, once.

    Raises:
        ConfigError: parameters that are gathered together have different types, or an embedding has sparse gradients.
    """
    if isinstance(module, FSDPModule):
        return
    for part in network.modules():
        if isinstance(part, nn.Embedding) and part.sparse:
            raise ConfigError("trainer_strategy=fsdp2 cannot split the sparse gradients of nn.Embedding(sparse=True).")
    assert module.device_mesh is not None
    mesh = module.device_mesh["data_parallel"]
    units = blocks(network)
    inside = {id(p) for block in units for p in block.parameters()}
    _check_types([[p for p in module.parameters() if id(p) not in inside], *(list(b.parameters()) for b in units)])
    for block in units:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    for name in _STEPS:
        register_fsdp_forward_method(module, name)


def _check_types(groups: list[list[nn.Parameter]]) -> None:
    for group in groups:
        found = sorted({str(p.dtype).removeprefix("torch.") for p in group})
        if len(found) > 1:
            raise ConfigError(
                f"trainer_strategy=fsdp2 gathers parameters of one type together, but some have {' and '.join(found)}."
            )


def _units(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))


def gather_weights(module: nn.Module) -> None:
    """Give every process all weights until `release_weights`; nothing happens without sharding.

    Evaluation needs it: processes may have different numbers of batches and of decoding steps, so a forward pass must
    not wait for the others.
    """
    if not isinstance(module, FSDPModule):
        return
    # Weights that are first gathered in inference mode could not be trained later.
    with torch.inference_mode(False):
        prepare: Any = module.prepare_shards
        prepare()
        for unit in _units(module):
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()


def release_weights(module: LightningModule) -> None:
    """Free the weights that other processes own."""
    if not isinstance(module, FSDPModule):
        return
    strategy = module.trainer.strategy
    assert isinstance(strategy, FSDP2Strategy)
    for unit in _units(module):
        unit.set_reshard_after_forward(strategy.reshard_after_forward and unit is not module, recurse=False)
        unit.reshard()


def load_full(module: nn.Module, state_dict: dict[str, Any]) -> None:
    """Load whole tensors, which every process has, into a module that may be sharded."""
    if isinstance(module, FSDPModule):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(module, state_dict, options=StateDictOptions(full_state_dict=True, strict=False))
    else:
        module.load_state_dict(state_dict, strict=False)


def as_parameter(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor of the shape of a parameter, split like it."""
    if not isinstance(parameter, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process owns; writing to it changes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def tied_names(module: nn.Module | None) -> dict[str, str]:
    """Further names of tied parameters → the name under which `named_parameters` lists them."""
    assert module is not None
    first = {id(p): name for name, p in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in every if first[id(p)] != name}

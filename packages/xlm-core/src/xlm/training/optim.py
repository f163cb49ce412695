"""Parameter groups, the optimizer and the learning-rate schedule."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import get_scheduler

from xlm.errors import ConfigError
from xlm.modules.layers import ShortConvolution
from xlm.utils.instantiate import building, check_arguments, instantiate


class LRSchedulerWithConfig(TypedDict):
    """The format in which Lightning expects a schedule."""

    scheduler: LRScheduler | ReduceLROnPlateau
    interval: Literal["step", "epoch"]
    frequency: int
    monitor: NotRequired[str | None]
    strict: NotRequired[bool]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for the optimizer: the model's own groups, otherwise its split by weight decay, otherwise all.

    Raises:
        ConfigError: if the model's split puts a trainable parameter in no group or in two.
    """
    own: Any = model
    if hasattr(own, "get_param_groups"):
        return list(own.get_param_groups())
    if not hasattr(own, "get_named_params_for_weight_decay"):
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]
    decayed = [(n, p) for n, p in own.get_named_params_for_weight_decay() if p.requires_grad]
    plain = [(n, p) for n, p in own.get_named_params_for_no_weight_decay() if p.requires_grad]
    _check_partition(model, [*decayed, *plain])
    groups = [
        {"params": [p for _, p in decayed], "weight_decay": weight_decay},
        {"params": [p for _, p in plain], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _check_partition(model: nn.Module, grouped: list[tuple[str, nn.Parameter]]) -> None:
    seen: set[int] = set()
    for name, parameter in grouped:
        if id(parameter) in seen:
            raise ConfigError(f"Parameter '{name}' is in two weight-decay groups of {type(model).__name__}.")
        seen.add(id(parameter))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in seen:
            raise ConfigError(
                f"Parameter '{name}' of {type(model).__name__} is in no weight-decay group and would not be trained."
            )


def build_optimizer(cfg: DictConfig, model: nn.Module) -> Optimizer:
    """The optimizer of `cfg.optimizer` over the model's parameter groups; ConfigError for values that it rejects."""
    factory = instantiate(cfg, _partial_=True, _convert_="all")
    if isinstance(factory.func, type) and issubclass(factory.func, LBFGS):
        raise ConfigError(
            "optimizer: LBFGS computes the loss of a batch several times in a step and has no parameter groups, so it "
            "cannot accumulate batches, average over processes or shards, or decay some weights. Others: "
            "docs/guide/optimizers.md",
            key="optimizer",
        )
    groups = parameter_groups(model, float(cfg.get("weight_decay") or 0.0))
    former = _former_groups(groups, model)
    # An optimizer that treats some parameters differently selects them itself.
    split = getattr(factory.func, "split_groups", None)
    if split is not None:
        groups, former = split(groups, model), split(former, model)
    given = {str(name): value for name, value in cfg.items()}
    with building("optimizer", factory.func, given):
        optimizer = factory(groups, **_implementation(factory.func, given, model))
    assert isinstance(optimizer, Optimizer)
    # Lightning refuses to clip gradients for an optimizer that would undo their scaling by itself. None is asked to:
    # a GradScaler then does it before.
    vars(optimizer).pop("_step_supports_amp_scaling", None)
    optimizer.register_load_state_dict_pre_hook(partial(_regrouped, former=[group["params"] for group in former]))
    return optimizer


def _implementation(kind: Any, given: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """`fused=True` for Adam and AdamW on the CPU, where torch's own choice takes four to eight times as long.

    Elsewhere, and for sharded parameters, torch chooses; `optimizer.fused` and `optimizer.foreach` choose everywhere.
    """
    is_chosen = given.get("fused") is not None or given.get("foreach") is not None
    is_adam = isinstance(kind, type) and issubclass(kind, Adam) and "fused" in inspect.signature(kind).parameters
    parameters = [p for p in model.parameters() if p.requires_grad]
    if is_chosen or not is_adam or not parameters:
        return {}
    is_plain = all(p.device.type == "cpu" and p.is_floating_point() and not isinstance(p, DTensor) for p in parameters)
    return {"fused": True} if is_plain else {}


def _former_groups(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """The groups as in 1.0.0, where the vectors of short convolutions had weight decay."""
    vectors = {m.weight for m in model.modules() if isinstance(m, ShortConvolution)}
    if len(groups) != 2 or not vectors:
        return groups
    decayed, plain = groups
    moved = [p for p in plain["params"] if p in vectors]
    place = {p: number for number, p in enumerate(model.parameters())}
    return [
        {**decayed, "params": sorted([*decayed["params"], *moved], key=place.__getitem__)},
        {**plain, "params": [p for p in plain["params"] if p not in vectors]},
    ]


def _regrouped(
    optimizer: Optimizer, state_dict: dict[str, Any], former: list[list[nn.Parameter]]
) -> dict[str, Any] | None:
    """A state in the old groups, converted to the optimizer's current groups; None for any other state.

    A state refers to parameters by their position in the groups.
    """
    saved = state_dict["param_groups"]
    own = [group["params"] for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in saved]
    if sizes != [len(params) for params in former] or sizes == [len(params) for params in own]:
        return None
    number = {
        p: n for params, group in zip(former, saved, strict=True) for p, n in zip(params, group["params"], strict=True)
    }
    groups = [{**group, "params": [number[p] for p in params]} for group, params in zip(saved, own, strict=True)]
    return {**state_dict, "param_groups": groups}


def create_lr_scheduler(
    optimizer: Optimizer,
    name: str,
    num_warmup_steps: int | None = None,
    fraction_warmup_steps: float | None = None,
    num_training_steps: int | None = None,
    interval: Literal["step", "epoch"] = "step",
    frequency: int = 1,
    monitor: str | None = None,
    strict: bool = True,
    **kwargs: Any,
) -> LRSchedulerWithConfig:
    """A schedule of transformers' `get_scheduler` by name, with further keywords for it.

    Raises:
        ConfigError: if a warm-up fraction is given without a number of training steps, both kinds of warm-up are
            given, the name is unknown, or the schedule rejects a value.
    """
    given = {
        "name": name,
        "num_warmup_steps": num_warmup_steps,
        "fraction_warmup_steps": fraction_warmup_steps,
        "num_training_steps": num_training_steps,
        "interval": interval,
        "frequency": frequency,
        "monitor": monitor,
        "strict": strict,
    }
    check_arguments(create_lr_scheduler, given, "lr_scheduler", strict=False)
    if fraction_warmup_steps is not None:
        if num_warmup_steps:
            raise ConfigError("lr_scheduler takes num_warmup_steps or fraction_warmup_steps, not both.")
        if num_training_steps is None or num_training_steps < 0:
            raise ConfigError("lr_scheduler.fraction_warmup_steps needs num_training_steps (trainer.max_steps).")
        num_warmup_steps = int(fraction_warmup_steps * num_training_steps)
    with building("lr_scheduler", get_scheduler, {**given, **kwargs}):
        scheduler = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=num_warmup_steps or 0,
            num_training_steps=num_training_steps,
            scheduler_specific_kwargs=_plain(kwargs),
        )
    return {
        "scheduler": scheduler,
        "interval": interval,
        "frequency": frequency,
        "monitor": monitor,
        "strict": strict,
    }


def _plain(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    plain = OmegaConf.to_container(OmegaConf.create(kwargs), resolve=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()} or None


def num_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """The number of trainable (or other) values of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)

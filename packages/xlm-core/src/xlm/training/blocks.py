"""The repeated blocks of a network: what sharding, activation checkpointing and compilation by block work on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The elements of the outermost `nn.ModuleList`s of a network that have parameters, each once.

    In a transformer these are its layers. Blocks that share a parameter with another part of the network are left out,
    because they cannot be sharded on their own.
    """
    found = list(dict.fromkeys(_elements(network)))
    owners: dict[int, set[int]] = {}
    inside = {id(module): index for index, block in enumerate(found) for module in block.modules()}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(inside.get(id(module), -1))
    return [block for block in found if all(len(owners[id(p)]) == 1 for p in block.parameters())]


def _elements(module: nn.Module, is_in_list: bool = False) -> Iterator[nn.Module]:
    for child in module.children():
        if is_in_list and not isinstance(child, _CONTAINERS):
            if next(child.parameters(), None) is not None:
                yield child
        else:
            yield from _elements(child, is_in_list or isinstance(child, nn.ModuleList))


def checkpoint_activations(network: nn.Module) -> int:
    """Let every block keep only its input for the backward pass, and compute the rest again; returns their number.

    It saves most of the memory of activations for about a third more computation. Dropout draws the same values again.
    """
    return _replace_forward(network, _checkpointed)


# Graphs that one function may have. All layers of a network are one function: the last layer, which computes chosen
# positions only, needs other graphs than those before it, evaluation others than training, and so do batches without
# padding or of one row. After 8, torch would compile no more and run what is new without a graph.
_MOST_GRAPHS = 32


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` of a loss or a block, which may have more graphs than torch allows by itself."""
    from torch._dynamo import config  # takes a while, so only for who compiles

    # The name in torch 2.6, and another name of `recompile_limit` in later ones.
    config.cache_size_limit = max(config.cache_size_limit, _MOST_GRAPHS)
    return torch.compile(function)


def compile_blocks(network: nn.Module) -> int:
    """Compile the forward pass of every block with `torch.compile`; returns their number.

    Equal blocks share the compiled code, so a deep network compiles as fast as a shallow one.
    """
    return _replace_forward(network, compiled)


# Measured with inductor, torch 2.13 and one thread on 2026-11-28: a step of compile=true over one without, and what
# compiling takes before the first one. docs/performance.md says for which network.
_CPU_RATIO, _CPU_SECONDS = 1.26, 17


def compile_note(chosen: bool | str, device_type: str) -> str:
    """What a person who compiles should know, for the start of a run; empty if there is nothing to say."""
    if not chosen or device_type != "cpu":
        return ""
    return (
        f"compile={str(chosen).lower()} rarely pays on a CPU: measured steps took {_CPU_RATIO} times as long as "
        f"without it, after {_CPU_SECONDS} s of compiling"
    )


def _replace_forward(network: nn.Module, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> int:
    """Replace `forward` on the blocks themselves: hooks stay outside, and names of weights don't change."""
    found = blocks(network)
    for block in found:
        block.__dict__["forward"] = change(block.forward)
    return len(found)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run

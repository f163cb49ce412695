"""The blocks of a network: which modules they are, and that checkpointing and compiling them changes no result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xlm.masked.network import RotaryMaskedNetwork
from xlm.training.blocks import blocks, checkpoint_activations, compile_blocks, compile_note


class Nested(nn.Module):
    """Lists in lists, a container in a list, an element without weights, and one that shares weights."""

    def __init__(self) -> None:
        super().__init__()
        experts = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]))
        self.stacks = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2), nn.Tanh()]), experts])
        self.tied = nn.ModuleList([nn.Linear(2, 3, bias=False)])
        self.embedding = nn.Embedding(3, 2)
        self.tied[0].weight = self.embedding.weight


def test_blocks_are_the_outermost_elements_of_lists_with_weights_of_their_own() -> None:
    network = Nested()
    first = network.stacks[0]
    assert isinstance(first, nn.ModuleList)
    assert blocks(network) == [first[0], network.stacks[1]]
    assert blocks(nn.Sequential(nn.Linear(2, 2))) == []


def losses_and_gradients(change: Callable[[nn.Module], int] | None) -> tuple[list[Tensor], int]:
    """With dropout, so that a second computation must draw the same values."""
    torch.manual_seed(0)
    network = RotaryMaskedNetwork(11, d_model=8, num_layers=2, nhead=2, dropout=0.3, max_length=16)
    assert change is None or change(network) == 2
    calls: list[int] = []
    network.layers[0].norm1.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr, operator]
    ids = torch.arange(20).reshape(2, 10) % 11
    loss = network(ids).logsumexp(-1).mean()
    loss.backward()
    names = set(network.state_dict())
    assert not any("checkpoint" in name or "orig_mod" in name for name in names)
    with torch.no_grad():
        network.eval()(ids)
    return [loss, *(p.grad for p in network.parameters() if p.grad is not None)], len(calls)


def test_checkpointed_blocks_give_the_same_gradients_and_are_computed_twice() -> None:
    plain, once = losses_and_gradients(None)
    found, twice = losses_and_gradients(checkpoint_activations)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert (once, twice) == (2, 3)


def test_who_compiles_for_a_cpu_is_told_that_it_rarely_pays() -> None:
    assert compile_note("blocks", "cpu").startswith("compile=blocks rarely pays on a CPU: measured steps took 1.26 ")
    assert compile_note(True, "cpu").startswith("compile=true ")
    assert compile_note(False, "cpu") == compile_note(True, "cuda") == compile_note("blocks", "mps") == ""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Stands in for inductor and runs graphs as they are; `frame_count` is their number."""
    import torch._dynamo
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    yield counter
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # of torch's own compiler
def test_equal_layers_are_compiled_once(graphs: Any) -> None:
    network = RotaryMaskedNetwork(11, d_model=8, num_layers=3, nhead=2, max_length=16)
    assert compile_blocks(network) == 3
    network(torch.arange(20).reshape(2, 10) % 11)
    assert graphs.frame_count == 1


class Scaled(nn.Module):
    """A block that needs a graph for each kind of scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, scale: str) -> Tensor:
        return self.weight * float(scale)


def test_a_block_may_have_many_graphs(graphs: Any) -> None:
    """More than the eight that torch allows by itself, after which it compiles no more."""
    network = nn.Sequential(nn.ModuleList([Scaled()]))
    compile_blocks(network)
    for scale in range(12):
        assert blocks(network)[0](str(scale)) == scale
    assert graphs.frame_count == 12


@pytest.mark.slow  # half a minute of compiling
def test_compiled_blocks_give_the_same_gradients() -> None:
    def change(network: nn.Module) -> int:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return compile_blocks(network)

    def without_dropout(network: nn.Module) -> int:
        change_only = [setattr(module, "p", 0.0) for module in network.modules() if isinstance(module, nn.Dropout)]
        return 2 if change_only else 0

    plain, _ = losses_and_gradients(without_dropout)
    found, _ = losses_and_gradients(change)
    for a, b in zip(plain, found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

"""A call with a memory gives what a call without one gives, as long as what is kept is still true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xlm.masked.network import RotaryMaskedNetwork
from xlm.modules.chosen import Chosen
from xlm.modules.memory import BlockMemory

D, LENGTH = 16, 9
LENGTHS = (9, 4, 6)  # real tokens of the rows


def some(mask: Tensor, share: float, seed: int) -> Chosen:
    """Real positions, at least one of each row."""
    wanted = (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < share) & mask
    wanted[torch.arange(len(mask)), mask.long().argmax(1)] = True
    return Chosen.of(wanted.reshape(-1).nonzero().squeeze(-1), mask.shape[1])


@pytest.mark.parametrize("left_padding", [False, True])
@pytest.mark.parametrize(("is_dit", "short_conv"), [(False, False), (False, True), (True, False), (True, True)])
@torch.no_grad()
def test_unchanged_rows_give_the_same_from_any_part(
    stack: Any, is_dit: bool, short_conv: bool, left_padding: bool
) -> None:
    layers = stack(3, D, is_dit, short_conv)
    mask = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
    mask = mask.flip(1) if left_padding else mask
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    x = torch.randn(3, LENGTH, D, dtype=torch.float64)
    condition = torch.randn(3, 8, dtype=torch.float64)
    memory = BlockMemory(3, len(layers))

    def run(rows: list[int], active: Chosen | None, chosen: Chosen | None, memory: Any) -> Tensor:
        inp, at = x[rows], positions[rows]
        if active is not None:
            inp, at = active.pick(inp), active.positions(at, len(rows))
        given = (condition[rows],) if is_dit else ()
        out: Tensor = layers(inp, *given, mask[rows], at, chosen=chosen, memory=memory)
        return out

    # The whole of two rows and of one, then parts of all, of two, and of them the positions that are read.
    for rows, is_whole in (([0, 2], True), ([1], True), ([0, 1, 2], False), ([1, 2], False), ([0, 1, 2], True)):
        active = None if is_whole else some(mask[rows], 0.5, len(rows))
        memory.next_call(torch.tensor(rows), active)
        expected = run(rows, None, None, None)
        found = run(rows, active, None, memory)
        real = Chosen.of(mask[rows].reshape(-1).nonzero().squeeze(-1), LENGTH)
        if active is None:
            torch.testing.assert_close(real.pick(found), real.pick(expected))
        else:
            torch.testing.assert_close(found, active.pick(expected))
        read = some(mask[rows], 0.0, 5) if active is None else Chosen.of(active.index[::2].clone(), LENGTH)
        torch.testing.assert_close(run(rows, active, read, memory), read.pick(expected))


@torch.no_grad()
def test_one_layer_sees_what_changed_in_the_computed_part() -> None:
    torch.manual_seed(0)
    network = RotaryMaskedNetwork(11, d_model=8, num_layers=1, nhead=2, dropout=0.0).double()
    ids = torch.randint(11, (2, 7))
    memory, everything = BlockMemory(2, 1), Chosen.of(torch.arange(14), 7)
    network.features(ids, chosen=everything, memory=memory.next_call(torch.arange(2), None))
    active = Chosen.of(torch.tensor([1, 2, 9, 10, 11]), 7)
    ids.view(-1)[active.index] = 3
    found = network.features(ids, chosen=active, memory=memory.next_call(torch.arange(2), active))
    torch.testing.assert_close(found, network.features(ids, chosen=active))
    other = Chosen.of(torch.tensor([0]), 7)
    ids[0, 4] = (ids[0, 4] + 1) % 11
    kept = network.features(ids, chosen=other, memory=memory.next_call(torch.arange(2), other))
    assert (kept - network.features(ids, chosen=other)).abs().max() > 1e-4, "a change elsewhere isn't seen"

"""The last layer on chosen positions gives what it gives on all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xlm.modules.chosen import Chosen
from xlm.modules.packing import Packing

D, LENGTH = 16, 9
LENGTHS = (9, 4, 6)  # real tokens of the rows


@pytest.mark.parametrize("positions", ["few", "one", "most", "all"])
@pytest.mark.parametrize("form", ["plain", "left padding", "packed", "causal"])
@pytest.mark.parametrize(("is_dit", "short_conv"), [(False, False), (False, True), (True, True)])
def test_outputs_and_gradients_are_those_of_the_whole_batch(
    stack: Any, positions: str, form: str, is_dit: bool, short_conv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.modules.chosen._FEWEST_POSITIONS", 0)
    if form == "causal" and (is_dit or short_conv):
        return  # these layers have no causal form
    layers = stack(2, D, is_dit, short_conv)
    mask = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
    mask = mask.flip(1) if form == "left padding" else torch.ones_like(mask) if form == "plain" else mask
    share = {"few": 0.3, "one": 0.0, "most": 0.8, "all": 1.1}[positions]
    wanted = (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < share) & mask
    wanted[1, int(mask[1].nonzero()[0])] = True
    chosen = Chosen.of(wanted.reshape(-1).nonzero().squeeze(-1), LENGTH)
    x = torch.randn(3, LENGTH, D, requires_grad=True, dtype=torch.float64)
    row_positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    condition = (torch.randn(3, 8, dtype=torch.float64),) if is_dit else ()
    packing = Packing.of(mask, mask.reshape(-1).nonzero().squeeze(-1)) if form == "packed" else None
    options: dict[str, Any] = {"is_causal": True} if form == "causal" else {}

    def run(**given: Any) -> Tensor:
        inp, at = (x, row_positions) if packing is None else (packing.pack(x), packing.positions(None))
        out: Tensor = layers(
            inp, *condition, None if form == "causal" else mask, at, packing=packing, **options, **given
        )
        return out

    whole = run() if packing is None else packing.unpack(run())
    expected = whole.reshape(-1, D)[chosen.index]
    found = run(chosen=chosen).squeeze(0)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    inputs = [x, *layers.parameters()]
    of_whole = torch.autograd.grad((expected * weight).sum(), inputs, allow_unused=True)
    of_chosen = torch.autograd.grad((found * weight).sum(), inputs, allow_unused=True)
    for one, other in zip(of_whole, of_chosen, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one)


def test_queries_are_gathered_only_where_one_mask_holds_for_a_whole_row_and_it_saves_time() -> None:
    length = 100
    chosen = Chosen.of(torch.tensor([1, 109, 110]), length)
    assert chosen.most == 2
    assert chosen.has_few_queries(3, None)
    assert chosen.has_few_queries(3, torch.ones(3, length, dtype=torch.bool))
    assert not chosen.has_few_queries(3, torch.ones(3, length, length, dtype=torch.bool))
    assert not Chosen.of(torch.arange(length), length).has_few_queries(3, None)
    assert not Chosen.of(torch.arange(0), length).has_few_queries(3, None)
    assert not chosen.has_few_queries(2, None)

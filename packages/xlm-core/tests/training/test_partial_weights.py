"""The weights that fit another network are loaded, and every other tensor is listed with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xlm.errors import CheckpointError
from xlm.training.partial_weights import load_what_fits, vocabulary_tables


class Network(nn.Module):
    def __init__(self, vocabulary: int = 5, width: int = 4, layers: int = 2, heads: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.out = nn.Linear(width, vocabulary)
        if heads:
            self.extra = nn.Linear(width, 2)


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_a_deeper_network_with_another_head_takes_what_it_can() -> None:
    source, target = Network(layers=2, heads=True), Network(layers=3)
    before = weights(target)
    found = load_what_fits(target, target, source.state_dict(), "x.ckpt")
    assert found.missing == ["layers.2.weight", "layers.2.bias"]
    assert found.unexpected == ["extra.bias", "extra.weight"]
    assert found.loaded == [name for name in before if not name.startswith("layers.2")]
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name] if name in found.missing else source.state_dict()[name])
    new = sum(before[name].numel() for name in found.missing)
    assert found.share == pytest.approx(1 - new / sum(t.numel() for t in before.values()))
    assert found.lines() == [
        f"7 of 9 tensors loaded, {found.share:.1%} of the weights",
        "new, because the source has no such tensor: layers.2.weight, layers.2.bias",
        "not used, because this model has no such tensor: extra.bias, extra.weight",
    ]


@pytest.mark.parametrize("padded", [0, 3])
def test_rows_follow_their_tokens(padded: int) -> None:
    """Token 0 is row 3 there; row 2 has no token there; padded rows belong to no token."""
    source, target = Network(5), Network(6 + padded)
    before = weights(target)
    rows = {0: 3, 1: 0, 3: 1, 4: 2, 5: 4}
    found = load_what_fits(target, target, source.state_dict(), "x.ckpt", rows)
    assert set(found.rows) == {"embed.weight", "out.weight", "out.bias"}
    assert found.rows["embed.weight"] == (5, 6 + padded)
    for name in found.rows:
        new, old = target.state_dict()[name], source.state_dict()[name]
        assert all(torch.equal(new[a], old[b]) for a, b in rows.items())
        kept = [2, *range(6, 6 + padded)]
        assert torch.equal(new[kept], before[name][kept])
    assert torch.equal(target.layers[1].weight, source.layers[1].weight)


def test_a_layer_as_wide_as_the_vocabulary_is_no_table() -> None:
    network = Network(vocabulary=4, width=4)
    assert {id(p) for p in vocabulary_tables(network)} == {
        id(network.embed.weight), id(network.out.weight), id(network.out.bias)
    }  # fmt: skip


def test_weights_that_are_stored_once_fill_all_their_names() -> None:
    source, target = Network(), Network()
    target.out.weight = target.embed.weight
    stored = {name: tensor for name, tensor in source.state_dict().items() if name != "out.weight"}
    found = load_what_fits(target, target, stored, "x.safetensors")
    assert (found.missing, found.share) == ([], 1.0)
    assert torch.equal(target.out.weight, source.embed.weight)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Network(vocabulary=5, width=3), r"embed.weight has the shape \(5, 3\) there and \(5, 4\) here: give the same"),
        (Network(vocabulary=5, layers=0), r""),  # only the tables fit
        (nn.Sequential(nn.Linear(2, 2)), r"Its tensors have other names \(0.bias there, embed.weight here\)"),
    ],
)
def test_nothing_that_fits_is_refused_and_changes_nothing(other: nn.Module, says: str) -> None:
    target = Network()
    before = weights(target)
    with pytest.raises(CheckpointError, match="Nothing in x.ckpt fits this model.*" + says):
        load_what_fits(target, target, other.state_dict(), "x.ckpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())

"""Mixing with neighbours: plain form, padding, documents packed side by side."""

from __future__ import annotations

import pytest
import torch

from xlm.modules.attention import KVCache
from xlm.modules.ddit_simple import DDiTLayer
from xlm.modules.layers import ShortConvolution
from xlm.modules.position import RotaryEmbedding
from xlm.modules.rotary_transformer import RotaryTransformerLayer, RotaryTransformerLayerList

D = 8


def conv() -> ShortConvolution:
    torch.manual_seed(0)
    return ShortConvolution(D).double()


def test_it_is_a_depthwise_convolution_of_width_three() -> None:
    module, x = conv(), torch.randn(2, 5, D, dtype=torch.float64)
    kernel = torch.stack([module.weight[0], torch.ones(D, dtype=torch.float64), module.weight[1]], dim=1)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), kernel.unsqueeze(1), padding=1, groups=D)
    torch.testing.assert_close(module(x), expected.transpose(1, 2))


def test_padding_on_either_side_changes_nothing() -> None:
    module, x = conv(), torch.randn(1, 4, D, dtype=torch.float64)
    padded = torch.full((1, 9, D), 7.0, dtype=torch.float64)
    padded[:, 3:7] = x
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[:, 3:7] = True
    torch.testing.assert_close(module(padded, mask)[:, 3:7], module(x))


def test_documents_side_by_side_do_not_mix() -> None:
    module, x = conv(), torch.randn(1, 6, D, dtype=torch.float64)
    mask = torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).bool().unsqueeze(0)
    apart = torch.cat([module(x[:, :2]), module(x[:, 2:])], dim=1)
    torch.testing.assert_close(module(x, mask), apart)


@pytest.mark.parametrize("kind", ["rotary", "ddit"])
def test_layers_use_it_and_layers_of_one_shape_draw_their_own(kind: str) -> None:
    rotary = RotaryEmbedding(D // 2)
    if kind == "rotary":
        layers = list(RotaryTransformerLayerList.from_layer(RotaryTransformerLayer(D, 2, short_conv=True), 2, rotary))
    else:
        from xlm.modules.ddit_simple import DDiTLayerList

        layers = list(DDiTLayerList.from_layer(DDiTLayer(D, 2, short_conv=True), 2, rotary))
    first, second = (layer.short_conv.weight for layer in layers)
    assert not torch.equal(first, second)
    assert RotaryTransformerLayer(D, 2).short_conv is None


def test_it_cannot_be_hidden_from_what_comes_later() -> None:
    layers = RotaryTransformerLayerList.from_layer(
        RotaryTransformerLayer(D, 2, short_conv=True), 1, RotaryEmbedding(D // 2)
    )
    x = torch.randn(1, 3, D)
    with pytest.raises(ValueError, match="both neighbours"):
        layers(x, None, is_causal=True)
    with pytest.raises(ValueError, match="both neighbours"):
        layers(x, None, cache=KVCache(1, 3))

"""The conditioned transformer: identity at first, residual on the raw stream, condition per row."""

from __future__ import annotations

import pytest
import torch

from xlm.modules.attention import positions_from_mask
from xlm.modules.ddit_simple import DDitFinalLayer, DDiTLayer, DDiTLayerList, RotaryEmbedding, TimestepEmbedder

D_MODEL, NHEAD, D_COND = 16, 2, 8


@pytest.fixture
def net() -> DDiTLayerList:
    torch.manual_seed(0)
    layer = DDiTLayer(D_MODEL, NHEAD, 32, 0.1, "relu", 1e-5, D_COND)
    layers = DDiTLayerList.from_layer(layer, 3, RotaryEmbedding(D_MODEL // NHEAD)).double().eval()
    for layer in layers:
        torch.nn.init.normal_(layer.adaln_modulation.weight)
        torch.nn.init.normal_(layer.adaln_modulation.bias)
    return layers


def test_a_new_stack_is_the_identity() -> None:
    layer = DDiTLayer(D_MODEL, NHEAD, 32, 0.1, "relu", 1e-5, D_COND)
    layers = DDiTLayerList.from_layer(layer, 2, RotaryEmbedding(D_MODEL // NHEAD))
    x, c = torch.randn(2, 5, D_MODEL) * 100, torch.randn(2, D_COND)
    assert torch.equal(layers(x, c, None), x)
    final = DDitFinalLayer(D_MODEL, 7, D_COND, 1e-5)
    assert torch.equal(final(x, c), torch.zeros(2, 5, 7))
    # But it learns: the gates have gradients at once.
    layers(x, c, None).square().sum().backward()
    for layer in layers:
        assert layer.adaln_modulation.weight.grad.any()  # type: ignore[union-attr]
    assert not torch.equal(layers[0].attn_qkv.weight, layers[1].attn_qkv.weight)


def test_one_layer_is_what_its_formula_says(net: DDiTLayerList) -> None:
    layer = net[0]
    x, c = torch.randn(2, 5, D_MODEL, dtype=torch.float64), torch.randn(2, D_COND, dtype=torch.float64)
    s1, k1, g1, s2, k2, g2 = (p.unsqueeze(1) for p in layer.adaln_modulation(c).chunk(6, -1))

    def norm(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    q, k, v = layer.attn_qkv(norm(x) * (1 + k1) + s1).view(2, 5, 3, NHEAD, -1).permute(2, 0, 3, 1, 4)
    rotate = RotaryEmbedding(D_MODEL // NHEAD).double()
    scores = rotate(q) @ rotate(k).transpose(-1, -2) / (D_MODEL // NHEAD) ** 0.5
    y = x + g1 * layer.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    y = y + g2 * layer.mlp(norm(y) * (1 + k2) + s2)
    assert torch.allclose(layer(x, c, None), y)


def test_padding_and_neighbours_change_nothing(net: DDiTLayerList) -> None:
    x, c = torch.randn(3, 7, D_MODEL, dtype=torch.float64), torch.randn(3, D_COND, dtype=torch.float64)
    mask = torch.arange(7) >= torch.tensor([[2], [0], [5]])
    batch = net(x, c, mask, positions_from_mask(mask))
    for row in range(3):
        alone = net(x[row : row + 1, mask[row]], c[row : row + 1], None)[0]
        assert torch.allclose(batch[row, mask[row]], alone)


def test_the_final_layer_is_its_hidden_state_and_a_linear_map() -> None:
    final = DDitFinalLayer(D_MODEL, 7, D_COND, 1e-5)
    for p in final.parameters():
        torch.nn.init.normal_(p)
    x, c = torch.randn(2, 5, D_MODEL), torch.randn(2, D_COND)
    assert torch.allclose(final(x, c), final.linear(final.hidden(x, c)))
    assert not torch.allclose(final(x, c), final(x, c + 1))


def test_times_are_told_apart() -> None:
    embedder = TimestepEmbedder(D_COND)
    out = embedder(torch.tensor([0.0, 0.01, 1.0, 5.0]))
    assert out.shape == (4, D_COND)
    assert torch.cdist(out, out).fill_diagonal_(1).min() > 1e-5
    assert torch.allclose(embedder(torch.tensor([3])), embedder(torch.tensor([3.0])))
    assert embedder.bfloat16()(torch.rand(3)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="even, got 7"):
        TimestepEmbedder(4, 7)


def test_autocast_runs_in_bfloat16(net: DDiTLayerList) -> None:
    net = net.float()
    x, c = torch.randn(2, 5, D_MODEL), torch.randn(2, D_COND) * 0.1
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, c, None)
    high = net(x, c, None)
    assert (low.float() - high).norm() < 0.05 * high.norm()

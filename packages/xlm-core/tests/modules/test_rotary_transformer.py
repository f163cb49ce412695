"""The shared transformer: documented names and shapes; padding, batching, masks and compiling change nothing."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from xlm.modules.attention import positions_from_mask
from xlm.modules.rotary_transformer import (
    RotaryEmbedding,
    RotaryTransformerFinalLayer,
    RotaryTransformerFinalLayerForClassification,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
)

D_MODEL, NHEAD = 16, 2


@pytest.fixture
def net() -> RotaryTransformerLayerList:
    torch.manual_seed(0)
    layer = RotaryTransformerLayer(D_MODEL, NHEAD, 32, dropout=0.1, activation="gelu")
    return RotaryTransformerLayerList.from_layer(layer, 3, RotaryEmbedding(D_MODEL // NHEAD)).double().eval()


def test_the_documented_signature_stands() -> None:
    init = list(inspect.signature(RotaryTransformerLayer).parameters)
    assert init == [
        "d_model",
        "nhead",
        "dim_feedforward",
        "dropout",
        "activation",
        "layer_norm_eps",
        "force_flash_attn",
        "short_conv",
    ]
    for kind in (RotaryTransformerLayer, RotaryTransformerLayerList):
        forward = inspect.signature(kind.forward).parameters
        positional = [n for n, p in forward.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == ["self", "inp", "attention_mask", "positions", "block_mask"]


def test_parameters_have_the_published_names_and_shapes() -> None:
    layer = RotaryTransformerLayer(D_MODEL, NHEAD)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    d, f = D_MODEL, 4 * D_MODEL
    assert shapes == {
        "norm1.weight": (d,),
        "norm1.bias": (d,),
        "attn_qkv.weight": (3 * d, d),
        "o_proj.weight": (d, d),
        "norm2.weight": (d,),
        "norm2.bias": (d,),
        "mlp.0.weight": (f, d),
        "mlp.0.bias": (f,),
        "mlp.2.weight": (d, f),
        "mlp.2.bias": (d,),
    }


def test_one_layer_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    layer = RotaryTransformerLayer(D_MODEL, NHEAD, dropout=0.5, layer_norm_eps=1e-3).double().eval()
    x = torch.randn(2, 5, D_MODEL, dtype=torch.float64)
    q, k, v = layer.attn_qkv(layer.norm1(x)).view(2, 5, 3, NHEAD, -1).permute(2, 0, 3, 1, 4)
    rotate = RotaryEmbedding(D_MODEL // NHEAD).double()
    scores = rotate(q) @ rotate(k).transpose(-1, -2) / (D_MODEL // NHEAD) ** 0.5
    y = x + layer.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    y = y + layer.mlp[2](layer.mlp[0](layer.norm2(y)).relu())
    assert torch.allclose(layer(x, None), y)


def test_layers_share_the_rotation_and_nothing_else(net: RotaryTransformerLayerList) -> None:
    assert len(net) == 3
    assert [type(layer) for layer in net] == [RotaryTransformerLayer] * 3
    assert len({id(layer.rotary_emb) for layer in net}) == 1
    for name, p in net[0].named_parameters():
        for other in net[1:]:
            q = other.get_parameter(name)
            assert q is not p
            # Weights drawn, not copied; norms start equal.
            assert "norm" in name or not torch.equal(p, q)
    state = net.state_dict()
    assert [k for k in state if "rotary" in k] == ["0.rotary_emb.inv_freq"]
    assert len({t.data_ptr() for t in state.values()}) == len(state)


@pytest.mark.parametrize(
    "places", [[], ["0.rotary_emb."], ["0.rotary_emb.", "1.rotary_emb.", "2.rotary_emb."], ["rotary_emb."]]
)
def test_weights_load_wherever_they_keep_the_frequencies(net: RotaryTransformerLayerList, places: list[str]) -> None:
    state = {k: v for k, v in net.state_dict().items() if "rotary" not in k}
    frequencies = net[0].rotary_emb.inv_freq * 1.5
    net.load_state_dict({**state, **{place + "inv_freq": frequencies for place in places}})
    if places:
        assert torch.equal(net[2].rotary_emb.inv_freq, frequencies)


def test_padding_changes_nothing(net: RotaryTransformerLayerList) -> None:
    x = torch.randn(3, 7, D_MODEL, dtype=torch.float64)
    left = torch.arange(7) >= torch.tensor([[2], [0], [5]])
    for mask in (left, left.flip(1)):
        for is_causal in (False, True):
            batch = net(x, mask, positions_from_mask(mask), is_causal=is_causal)
            for row in range(3):
                alone = net(x[row : row + 1, mask[row]], None, is_causal=is_causal)[0]
                assert torch.allclose(batch[row, mask[row]], alone)
            assert batch.isfinite().all()


def test_all_ways_to_be_causal_agree(net: RotaryTransformerLayerList) -> None:
    x = torch.randn(2, 6, D_MODEL, dtype=torch.float64)
    by_flag = net(x, None, is_causal=True)
    dense = torch.ones(6, 6).tril().bool().expand(2, 6, 6)
    assert torch.allclose(by_flag, net(x, dense))
    block = create_block_mask(lambda b, h, q, k: q >= k, None, None, 6, 6, device="cpu")
    assert torch.allclose(by_flag, net(x, None, None, block))
    one_by_one = x
    for layer in net:
        one_by_one = layer(one_by_one, dense, torch.arange(6))
    assert torch.allclose(by_flag, one_by_one)


def test_dropout_acts_in_training_only() -> None:
    layer = RotaryTransformerLayer(D_MODEL, NHEAD, dropout=0.9)
    x = torch.randn(2, 4, D_MODEL)
    assert not torch.equal(layer(x, None), layer(x, None))
    layer.eval()
    assert torch.equal(layer(x, None), layer(x, None))


@pytest.mark.slow
def test_compiled_with_gradients_is_the_same(net: RotaryTransformerLayerList) -> None:
    x = torch.randn(2, 5, D_MODEL, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False, True, True, True, True]])

    def run(f: torch.nn.Module) -> torch.Tensor:
        return torch.autograd.grad(f(x, mask, positions_from_mask(mask), is_causal=True).square().sum(), x)[0]

    assert torch.allclose(run(net), run(torch.compile(net, fullgraph=True, backend="aot_eager")))


def test_autocast_runs_in_bfloat16(net: RotaryTransformerLayerList) -> None:
    net = net.float()
    x = torch.randn(2, 5, D_MODEL)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, torch.ones(2, 5, dtype=torch.bool), is_causal=True)
    assert torch.allclose(low.float(), net(x, None, is_causal=True), atol=0.1)
    assert net.bfloat16()(x.bfloat16(), None).dtype == torch.bfloat16


def test_final_layers() -> None:
    final = RotaryTransformerFinalLayer(D_MODEL, 5, 1e-5)
    assert list(final.state_dict()) == ["norm_final.weight", "norm_final.bias", "linear.weight"]
    x = torch.randn(2, 3, D_MODEL)
    assert torch.allclose(final(x), final.linear(final.norm_final(x)))
    assert torch.equal(RotaryTransformerFinalLayer(D_MODEL, 5, 1e-5, zero_init=True)(x), torch.zeros(2, 3, 5))
    plain = RotaryTransformerFinalLayer(D_MODEL, 5, 1e-5, use_final_layer_norm=False)
    assert list(plain.state_dict()) == ["linear.weight"]
    assert torch.equal(plain(x), plain.linear(x))


def test_the_classification_head() -> None:
    head = RotaryTransformerFinalLayerForClassification(D_MODEL, 2, 0.5, 1e-5).eval()
    names = {name.rpartition(".")[0] for name in head.state_dict()}
    assert names == {"norm_final", "mlp.0", "mlp.2", "linear"}
    assert head.mlp[0].out_features == 2 * D_MODEL
    x = torch.randn(4, D_MODEL)
    h = head.norm_final(x)
    assert torch.allclose(head(x), head.linear(h + head.mlp[2](head.mlp[0](h).tanh())))
    assert head(x[None]).shape == (1, 4, 2)


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="d_model 16 over 3 heads"):
        RotaryTransformerLayer(16, 3)
    with pytest.raises(ValueError, match="d_model 6 over 2 heads"):
        RotaryTransformerLayer(6, 2)
    with pytest.raises(ValueError, match=r"Unknown activation 'swish'\. Choices: relu, gelu"):
        RotaryTransformerLayer(16, 2, activation="swish")

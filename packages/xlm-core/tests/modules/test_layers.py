"""Weight initialisation: scales as said, zeros stay zero."""

from __future__ import annotations

import torch
from torch import nn

from xlm.modules.layers import init_transformer_weights
from xlm.modules.rotary_transformer import (
    RotaryEmbedding,
    RotaryTransformerFinalLayer,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
)


def test_initial_scales() -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "embed": nn.Embedding(500, 64, padding_idx=0),
            "layers": RotaryTransformerLayerList.from_layer(RotaryTransformerLayer(64, 2), 8, RotaryEmbedding(32)),
            "zero": RotaryTransformerFinalLayer(64, 7, zero_init=True),
            "out": RotaryTransformerFinalLayer(64, 7),
        }
    )
    init_transformer_weights(net, std=0.1, num_layers=8)
    for name, p in net.named_parameters():
        if name.startswith("zero.linear") or name.endswith("bias"):
            assert not p.any()
        elif "norm" in name:
            assert (p == 1).all()
        else:
            residual = name.endswith(("o_proj.weight", "mlp.2.weight"))
            assert abs(float(p.detach().std()) / (0.025 if residual else 0.1) - 1) < 0.1, name
    assert not net["embed"].weight[0].any()


def test_without_a_depth_all_scales_are_equal() -> None:
    torch.manual_seed(0)
    layer = RotaryTransformerLayer(64, 2)
    init_transformer_weights(layer)
    assert abs(float(layer.o_proj.weight.detach().std()) - 0.02) < 0.002

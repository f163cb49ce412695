"""Stacks of layers of both kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from xlm.modules.ddit_simple import DDiTLayer, DDiTLayerList
from xlm.modules.position import RotaryEmbedding
from xlm.modules.rotary_transformer import RotaryTransformerLayer, RotaryTransformerLayerList

HEADS = 2


@pytest.fixture
def stack() -> Callable[[int, int, bool, bool], Any]:
    """(number of layers, width, is_dit, short_conv) → a stack in float64, of transformer layers or of DiT layers."""

    def make(num_layers: int, width: int, is_dit: bool, short_conv: bool) -> Any:
        torch.manual_seed(0)
        rotary = RotaryEmbedding(width // HEADS)
        if not is_dit:
            layer = RotaryTransformerLayer(width, HEADS, dropout=0.0, short_conv=short_conv)
            return RotaryTransformerLayerList.from_layer(layer, num_layers, rotary).double()
        block = DDiTLayer(width, HEADS, dropout=0.0, d_cond=8, short_conv=short_conv)
        layers = DDiTLayerList.from_layer(block, num_layers, rotary)
        for part in layers:
            torch.nn.init.normal_(part.adaln_modulation.weight)  # zero at the start, where every layer is the identity
        return layers.double()

    return make

"""The network of the model of gaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xlm.model import Model
from xlm.modules.rotary_transformer import (
    RotaryEmbedding,
    RotaryTransformerFinalLayer,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
)


class GapTransformer(torch.nn.Module, Model):
    """Every position sees every other one."""

    def __init__(self, num_embeddings: int, d_model: int, num_layers: int, nhead: int, max_length: int):
        super().__init__()
        self.max_length = max_length
        self.embed_tokens = nn.Embedding(num_embeddings, d_model)
        layer = RotaryTransformerLayer(d_model, nhead, 4 * d_model, 0.0, "gelu")
        rotary = RotaryEmbedding(d_model // nhead, head_first=True, cache_size=max_length)
        self.encoder = RotaryTransformerLayerList.from_layer(layer, num_layers, rotary)
        self.output_layer = RotaryTransformerFinalLayer(d_model, num_embeddings, 1e-5)

    def forward(self, x_t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        assert x_t.shape[1] <= self.max_length
        x = self.embed_tokens(x_t)
        for block in self.encoder:
            x = block(x, attention_mask)
        return self.output_layer(x)

"""The network: a DDiT."""

from __future__ import annotations

import torch
from torch import Tensor

from xlm.model import Model
from xlm.modules.ddit_simple import DDitFinalLayer, DDiTLayer, DDiTLayerList, TimestepEmbedder
from xlm.modules.position import RotaryEmbedding


class FlexDDiT(torch.nn.Module, Model):
    """Token ids and a time to logits."""

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        d_cond: int | None = None,
        padding_idx: int = 0,
        mask_idx: int = 2,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        layer_norm_eps: float = 1e-5,
        max_length: int = 1024,
        force_flash_attn: bool = False,
    ):
        super().__init__()
        d_cond = d_cond or d_model // 2
        self.mask_idx = mask_idx
        self.embed_tokens = torch.nn.Embedding(num_embeddings, d_model, padding_idx=padding_idx)
        self.sigma_map = TimestepEmbedder(d_cond, frequency_embedding_size=256)
        layer = DDiTLayer(
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            d_cond,
            force_flash_attn=force_flash_attn,
        )
        rotary = RotaryEmbedding(d_model // nhead, head_first=True, cache_size=max_length)
        self.encoder = DDiTLayerList.from_layer(layer, num_layers, rotary)
        self.output_layer = DDitFinalLayer(d_model, num_embeddings, d_cond, layer_norm_eps)

    def forward(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        c = torch.nn.functional.silu(self.sigma_map(t))
        x = self.embed_tokens(x_t)
        for layer in self.encoder:
            x = layer(x, c, attention_mask, positions)
        logits = self.output_layer(x, c)
        return logits.index_fill(-1, torch.tensor([self.mask_idx], device=logits.device), -1e4)

    def get_param_groups(self):
        slow = [p for n, p in self.named_parameters() if n.startswith("sigma_map")]
        fast = [p for n, p in self.named_parameters() if not n.startswith("sigma_map")]
        return [{"params": fast, "weight_decay": 0.0}, {"params": slow, "weight_decay": 0.0, "lr": 1e-3}]

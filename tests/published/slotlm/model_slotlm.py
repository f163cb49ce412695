"""The network of the slot model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xlm.model import Model
from xlm.modules.rotary_transformer import (
    RotaryEmbedding,
    RotaryTransformerFinalLayer,
    RotaryTransformerFinalLayerForClassification,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
)


class SlotTransformer(torch.nn.Module, Model):
    """For every position: what comes after it, and whether anything does. The answer is read from left to right."""

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        padding_idx: int = 0,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        rotary_emb_dim: int = 64,
        max_length: int = 1024,
        force_flash_attn: bool = False,
        use_final_layer_norm: bool = True,
    ):
        super().__init__()
        self.embed_tokens = nn.Embedding(num_embeddings, d_model, padding_idx=padding_idx)
        self.dropout_embed = nn.Dropout(dropout)
        layer = RotaryTransformerLayer(
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            force_flash_attn=force_flash_attn,
        )
        self.encoder = RotaryTransformerLayerList.from_layer(
            layer, num_layers, RotaryEmbedding(rotary_emb_dim, head_first=True, cache_size=max_length)
        )
        self.output_layer = RotaryTransformerFinalLayer(
            d_model, num_embeddings, layer_norm_eps, use_final_layer_norm=use_final_layer_norm, zero_init=False
        )
        self.stopping_classification_layer = RotaryTransformerFinalLayerForClassification(
            d_model, 1, dropout, layer_norm_eps
        )

    def forward(
        self,
        x_t: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if attention_mask is not None:
            attention_mask = attention_mask.to(torch.bool)
            if token_type_ids is not None:  # (B, Q, K): everybody sees the prompt, an answer what came before
                is_answer = token_type_ids == 1
                causal = torch.ones(x_t.shape[1], x_t.shape[1], dtype=torch.bool, device=x_t.device).tril()
                attention_mask = attention_mask[:, None] & (causal | ~is_answer[:, None])
        x = self.dropout_embed(self.embed_tokens(x_t))
        for block in self.encoder:
            x = block(x, attention_mask, positions=positions)
        return self.output_layer(x), self.stopping_classification_layer(x).squeeze(-1)

    def get_named_params_for_weight_decay(self):
        for name, param in self.named_parameters():
            if "norm" not in name and not name.endswith("bias") and "embed" not in name:
                yield name, param

    def get_named_params_for_no_weight_decay(self):
        for name, param in self.named_parameters():
            if "norm" in name or name.endswith("bias") or "embed" in name:
                yield name, param

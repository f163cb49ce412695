"""One causal transformer layer between an embedding and an output layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xlm.model import Model
from xlm.modules.rotary_transformer import RotaryEmbedding, RotaryTransformerFinalLayer, RotaryTransformerLayer


class TidyNetwork(nn.Module, Model):
    """Logits of the next token."""

    def __init__(self, num_embeddings: int, d_model: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, d_model)
        self.layer = RotaryTransformerLayer(d_model, 2, dropout=dropout)
        self.layer.rotary_emb = RotaryEmbedding(d_model // 2)
        self.head = RotaryTransformerFinalLayer(d_model, num_embeddings, 1e-5)

    def visible(self, attention_mask: Tensor) -> Tensor:
        """(B, L, L): which columns a row's position attends to."""
        length = attention_mask.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
        # Padding sees itself, so that no row of the softmax is empty.
        return causal & (attention_mask[:, None] | torch.eye(length, dtype=torch.bool, device=attention_mask.device))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) → (B, L, V)."""
        positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        hidden = self.layer(self.embedding(input_ids), self.visible(attention_mask), positions)
        return self.head(hidden)

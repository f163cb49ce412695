"""The network of template_model: a small causal transformer. Only the loss and the predictor call it."""

from __future__ import annotations

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from xlm.model import Model
from xlm.modules.attention import positions_from_mask
from xlm.modules.rotary_transformer import (
    RotaryEmbedding,
    RotaryTransformerFinalLayer,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
)


class TemplateModelNetwork(nn.Module, Model):
    """p(next token | tokens so far) at every position of a sequence.

    `Model` adds save_pretrained, from_pretrained, push_to_hub and the groups for weight decay. The arguments are the
    keys of configs/model/template_model.yaml.

    Args:
        num_embeddings: size of the vocabulary, special tokens included (V).
        d_model, num_layers, nhead: sizes; the feed-forward part is 4 · d_model wide.
        dropout: probability in every layer.
    """

    def __init__(
        self, num_embeddings: int, d_model: int = 128, num_layers: int = 2, nhead: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        # TODO: your network. xlm.modules has these layers and others: DiT, short convolutions, a key-value cache.
        self.embed_tokens = nn.Embedding(num_embeddings, d_model)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        layer = RotaryTransformerLayer(d_model, nhead, 4 * d_model, dropout, activation="gelu")
        self.layers = RotaryTransformerLayerList.from_layer(layer, num_layers, RotaryEmbedding(d_model // nhead))
        self.final_layer = RotaryTransformerFinalLayer(d_model, num_embeddings)

    def forward(
        self, input_ids: Integer[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length vocab"]:
        """(B, L) token ids to (B, L, V) logits of the next token; attention_mask is True where a token is real."""
        # Positions count real tokens only: padding on the left shifts nothing.
        positions = positions_from_mask(attention_mask)
        x = self.embed_tokens(input_ids)  # (B, L, d_model)
        x = self.layers(x, attention_mask, positions, is_causal=True)
        logits: Tensor = self.final_layer(x)
        return logits

"""The network that all families build: token embedding, rotary layers, final layer, with or without a condition."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from xlm.model import Model
from xlm.modules.ddit_simple import DDitFinalLayer, DDiTLayer, DDiTLayerList, TimestepEmbedder
from xlm.modules.layers import check_positive, check_vocabulary
from xlm.modules.position import RotaryEmbedding
from xlm.modules.rotary_transformer import (
    RotaryTransformerFinalLayer,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
)


class RotaryStack(NamedTuple):
    """The parts of a network; None for embeddings that it does not have."""

    embed_tokens: nn.Embedding
    embed_types: Any
    embed_condition: Any
    layers: Any
    final_layer: Any


def rotary_stack(
    num_embeddings: int,
    d_model: int,
    num_layers: int,
    nhead: int,
    dim_feedforward: int | None,
    dropout: float,
    activation: str,
    layer_norm_eps: float,
    max_length: int,
    rotary_base: float,
    rotary_max_frequency: float,
    *,
    short_conv: bool = False,
    embedding_std: float | None = None,
    num_token_types: int | None = None,
    d_cond: int | None = None,
    zero_init: bool = False,
) -> RotaryStack:
    """Embedding, layers that share one rotary embedding, and final layer.

    Args:
        num_embeddings: vocabulary, special tokens included (V).
        d_model, num_layers, nhead, dim_feedforward: sizes; dim_feedforward None is 4 · d_model.
        dropout, activation, layer_norm_eps: of every layer.
        max_length: positions the rotary table is made for at once; it grows when needed.
        rotary_base, rotary_max_frequency: of the rotary positions; see `RotaryEmbedding`.
        short_conv: mix each token with its neighbours in every layer; see `ShortConvolution`.
        embedding_std: of the token embedding's normal weights; None keeps torch's 1.
        num_token_types: of a second embedding, for what kind of token stands somewhere; None for none.
        d_cond: width of the vector that modulates the norms of a DiT; None for an ordinary pre-LN transformer.
        zero_init: start with the output layer at zero, as a DiT always does.
    """
    check_positive(num_embeddings=num_embeddings, d_model=d_model, nhead=nhead)
    embed_tokens = nn.Embedding(num_embeddings, d_model)
    if embedding_std is not None:
        nn.init.normal_(embed_tokens.weight, std=embedding_std)
    embed_types = None if num_token_types is None else nn.Embedding(num_token_types, d_model)
    rotary = RotaryEmbedding(
        d_model // nhead, cache_size=max_length, base=rotary_base, max_frequency=rotary_max_frequency
    )
    sizes = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
    if d_cond is None:
        layer = RotaryTransformerLayer(*sizes, short_conv=short_conv)
        layers = RotaryTransformerLayerList.from_layer(layer, num_layers, rotary)
        final = RotaryTransformerFinalLayer(d_model, num_embeddings, layer_norm_eps, zero_init=zero_init)
        return RotaryStack(embed_tokens, embed_types, None, layers, final)
    embed_condition = TimestepEmbedder(d_cond)
    block = DDiTLayer(*sizes, d_cond=d_cond, short_conv=short_conv)
    blocks = DDiTLayerList.from_layer(block, num_layers, rotary)
    final_block = DDitFinalLayer(d_model, num_embeddings, d_cond, layer_norm_eps)
    return RotaryStack(embed_tokens, embed_types, embed_condition, blocks, final_block)


class RotaryNetwork(nn.Module, Model):
    """What networks made of a `rotary_stack` have in common."""

    embed_tokens: nn.Embedding
    layers: Any
    final_layer: Any

    def check_tokenizer(self, tokenizer: Any) -> None:
        """ConfigError if the tokenizer has more ids than are embedded here."""
        check_vocabulary(self.embed_tokens.num_embeddings, tokenizer)

    @property
    def output_layer(self) -> nn.Linear:
        """The linear map from features to logits."""
        linear: nn.Linear = self.final_layer.linear
        return linear

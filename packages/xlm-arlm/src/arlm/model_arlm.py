"""The left-to-right network: a pre-LN causal transformer with rotary positions and an untied output layer."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from xlm.model import Model
from xlm.modules.attention import positions_from_mask
from xlm.modules.kv_cache import KVCache
from xlm.modules.layers import check_positive, check_vocabulary
from xlm.modules.rotary_transformer import (
    RotaryEmbedding,
    RotaryTransformerFinalLayer,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
)


class RotaryARLM(nn.Module, Model):
    """p(x_i | x_<i) for every position of a sequence.

    Args:
        num_embeddings: vocabulary, special tokens included (V).
        d_model, num_layers, nhead, dim_feedforward: sizes; dim_feedforward None is 4 · d_model.
        dropout, activation, layer_norm_eps: of every layer.
        max_length: positions the rotary table is made for at once; it grows when needed.
        rotary_base, rotary_max_frequency: of the rotary positions; see `RotaryEmbedding`.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int = 768,
        num_layers: int = 12,
        nhead: int = 12,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        layer_norm_eps: float = 1e-5,
        max_length: int = 1024,
        rotary_base: float = 10000.0,
        rotary_max_frequency: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(num_embeddings=num_embeddings, d_model=d_model, nhead=nhead)
        self.embed_tokens = nn.Embedding(num_embeddings, d_model)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        layer = RotaryTransformerLayer(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        rotary = RotaryEmbedding(
            d_model // nhead, cache_size=max_length, base=rotary_base, max_frequency=rotary_max_frequency
        )
        self.layers = RotaryTransformerLayerList.from_layer(layer, num_layers, rotary)
        self.final_layer = RotaryTransformerFinalLayer(d_model, num_embeddings, layer_norm_eps)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """ConfigError if the tokenizer has more ids than are embedded here."""
        check_vocabulary(self.embed_tokens.num_embeddings, tokenizer)

    def for_transformers(self) -> Any:
        """A network of transformers with these weights that computes the same."""
        from arlm.export_arlm import to_gpt_neox

        return to_gpt_neox(self)

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for rows of at most that many tokens."""
        return KVCache(len(self.layers), capacity)

    def hidden(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
        *,
        left_padded: bool | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """Hidden vectors before the output layer.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), True where a token is real; with a cache, of these tokens alone.
            positions: (B, L); None counts the real tokens of each row from 0.
            left_padded: False where the caller knows that no row starts with padding. Padding on the right comes
                after every real token, so causality hides it and the kernel's causal flag does without a mask.
            cache: keys and values of earlier tokens, extended by these.
        """
        if cache is not None:
            positions, attention_mask = cache.advance(input_ids, attention_mask)
        elif attention_mask is not None:
            if left_padded is None:
                on_cpu = attention_mask.device.type == "cpu" and not torch.compiler.is_compiling()
                left_padded = not (on_cpu and bool(attention_mask[:, 0].all()))
            if not left_padded:
                attention_mask = None
            elif positions is None:
                positions = positions_from_mask(attention_mask)
        x = self.embed_tokens(input_ids)
        return self.layers(x, attention_mask, positions, is_causal=True, cache=cache)

    def forward(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
        *,
        left_padded: bool | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch kept vocab"]:
        """Logits of the next token at every position, (B, L, V), or with `last_only` at the last, (B, 1, V)."""
        h = self.hidden(input_ids, attention_mask, positions, left_padded=left_padded, cache=cache)
        return self.final_layer(h[:, -1:] if last_only else h)

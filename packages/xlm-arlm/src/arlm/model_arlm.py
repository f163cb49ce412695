"""The left-to-right network: a pre-LN causal transformer with rotary positions and an untied output layer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.modules.attention import KVCache, positions_from_mask
from xlm.modules.chosen import Chosen
from xlm.modules.packing import Packing
from xlm.modules.rotary_network import RotaryNetwork, rotary_stack
from xlm.modules.single_token import single_token_stack


class RotaryARLM(RotaryNetwork):
    """p(x_i | x_<i) for every position of a sequence.

    Args:
        num_embeddings: vocabulary, special tokens included (V).
        d_model, num_layers, nhead, dim_feedforward: sizes; dim_feedforward None is 4 · d_model.
        dropout, activation, layer_norm_eps: of every layer.
        max_length, rotary_base, rotary_max_frequency: see `rotary_stack`.
    """

    packs: ClassVar[bool] = True
    chooses: ClassVar[bool] = True

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
        self.embed_tokens, _, _, self.layers, self.final_layer = rotary_stack(
            num_embeddings, d_model, num_layers, nhead, dim_feedforward, dropout, activation, layer_norm_eps,
            max_length, rotary_base, rotary_max_frequency, embedding_std=0.02,
        )  # fmt: skip

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
        token_index: Integer[Tensor, " tokens"] | None = None,
        chosen: Chosen | None = None,
    ) -> Float[Tensor, "*output d_model"]:
        """Hidden vectors before the output layer, (B, L, D).

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), True where a token is real; with a cache, of these tokens alone.
            positions: (B, L); None counts the real tokens of each row from 0.
            left_padded: False where the caller knows that no row starts with padding. Padding on the right comes
                after every real token, so causality hides it and the kernel's causal flag does without a mask.
            cache: keys and values of earlier tokens, extended by these.
            token_index: real tokens in the flattened batch, which saves computing the padding; see `Packing`.
            chosen: the positions whose vectors are wanted; the result is (N, D) then.
        """
        packing = Packing.of(attention_mask, token_index)
        if cache is not None:
            positions, attention_mask = cache.advance(input_ids, attention_mask)
            is_step = input_ids.shape[1] == 1 and chosen is None and packing is None
            if is_step and not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()):
                stack = single_token_stack(self.layers, cache)
                if stack is not None:
                    return stack(self.embed_tokens(input_ids), attention_mask, positions, cache)
        elif attention_mask is not None:
            if left_padded is None:
                on_cpu = attention_mask.device.type == "cpu" and not torch.compiler.is_compiling()
                left_padded = not (on_cpu and bool(attention_mask[:, 0].all()))
            if not left_padded:
                attention_mask = None
            elif positions is None and packing is None:
                positions = positions_from_mask(attention_mask)
        if packing is not None:
            input_ids, positions = packing.pack(input_ids), packing.positions(positions)
        x = self.embed_tokens(input_ids)
        hidden: Tensor = self.layers(
            x, attention_mask, positions, is_causal=True, cache=cache, packing=packing, chosen=chosen
        )
        if chosen is not None:
            return hidden.squeeze(0)
        return hidden if packing is None else packing.unpack(hidden)

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
        chosen = None
        if last_only and input_ids.shape[1] > 1:
            last = torch.arange(1, len(input_ids) + 1, device=input_ids.device) * input_ids.shape[1] - 1
            chosen = Chosen(last, input_ids.shape[1], most=1)
        h = self.hidden(input_ids, attention_mask, positions, left_padded=left_padded, cache=cache, chosen=chosen)
        logits: Tensor = self.final_layer(h if chosen is None else h.unsqueeze(1))
        return logits

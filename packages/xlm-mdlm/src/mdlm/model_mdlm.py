"""The diffusion network: a DiT whose layer norms follow σ(t), or an ordinary transformer that ignores time."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.modules.attention import drop_full_mask, positions_from_mask
from xlm.modules.chosen import Chosen
from xlm.modules.length_model import LengthModel
from xlm.modules.memory import BlockMemory
from xlm.modules.packing import Packing
from xlm.modules.rotary_network import RotaryNetwork, rotary_stack


class DiTMDLM(RotaryNetwork):
    """p(x_i | z_t, t) for every position of a sequence (arXiv 2212.09748 and 2406.07524, appendix).

    Args:
        num_embeddings: vocabulary, special tokens included (V).
        d_model, num_layers, nhead, dim_feedforward: sizes; dim_feedforward None is 4 · d_model.
        dropout, activation, layer_norm_eps: of every layer.
        d_cond: width of the vector that σ(t) is embedded in.
        time_conditioning: False for an ordinary pre-LN transformer, which is as good a denoiser (the number of masks
            tells the time) and smaller.
        max_length, short_conv, rotary_base, rotary_max_frequency: see `rotary_stack`.
        num_text_lengths: lengths that the length model knows, for `text_length=modelled`; None for no length model.
    """

    packs: ClassVar[bool] = True
    chooses: ClassVar[bool] = True
    caches: ClassVar[bool] = True

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
        d_cond: int = 128,
        time_conditioning: bool = True,
        max_length: int = 1024,
        short_conv: bool = False,
        rotary_base: float = 10000.0,
        rotary_max_frequency: float = 1.0,
        num_text_lengths: int | None = None,
    ) -> None:
        super().__init__()
        self.time_conditioning = time_conditioning
        stack = rotary_stack(
            num_embeddings, d_model, num_layers, nhead, dim_feedforward, dropout, activation, layer_norm_eps,
            max_length, rotary_base, rotary_max_frequency, short_conv=short_conv, embedding_std=d_model**-0.5,
            d_cond=d_cond if time_conditioning else None, zero_init=True,
        )  # fmt: skip
        self.length_model = None if num_text_lengths is None else LengthModel(num_text_lengths)
        self.embed_tokens = stack.embed_tokens
        if stack.embed_condition is not None:
            self.embed_sigma = stack.embed_condition
        self.layers, self.final_layer = stack.layers, stack.final_layer

    def features(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        sigma: Float[Tensor, " batch"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
        token_index: Integer[Tensor, " tokens"] | None = None,
        chosen: Chosen | None = None,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "*output d_model"]:
        """What the output layer reads, (B, L, D).

        Args:
            input_ids: (B, L), z_t.
            attention_mask: (B, L), True where a token is real; padding is seen by nobody and moves no position.
            sigma: (B,), σ(t) of each row; not looked at without time conditioning.
            positions: (B, L); None counts the real tokens of each row from 0.
            token_index: real tokens in the flattened batch, which saves computing the padding; see `Packing`.
            chosen: the positions whose features are wanted; the result is (N, D) then.
            memory: of earlier calls, which says what this one computes; needs `chosen`.
        """
        packing = Packing.of(attention_mask, token_index)
        attention_mask = drop_full_mask(attention_mask)
        if packing is not None:
            input_ids, positions = packing.pack(input_ids), packing.positions(positions)
        elif positions is None and attention_mask is not None:
            positions = positions_from_mask(attention_mask)
        if memory is not None:
            input_ids, positions = memory.computed(input_ids, positions)
        x = self.embed_tokens(input_ids)
        features: Tensor
        if not self.time_conditioning:
            hidden = self.layers(x, attention_mask, positions, packing=packing, chosen=chosen, memory=memory)
            features = self.final_layer.norm_final(hidden)
        elif sigma is None:
            raise ValueError("A network with time conditioning needs sigma, the σ(t) of each row.")
        else:
            c = torch.nn.functional.silu(self.embed_sigma(sigma))
            hidden = self.layers(x, c, attention_mask, positions, packing, chosen, memory)
            features = self.final_layer.hidden(hidden, c, packing, chosen)
        if chosen is not None:
            return features.squeeze(0)
        return features if packing is None else packing.unpack(features)

    def forward(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        sigma: Float[Tensor, " batch"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits at every position, (B, L, V)."""
        return self.output_layer(self.features(input_ids, attention_mask, sigma, positions))

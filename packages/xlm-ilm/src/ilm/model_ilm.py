"""The insertion network: a bidirectional pre-LN transformer with rotary positions, a token head and a head on CLS."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.modules.attention import drop_full_mask, positions_from_mask
from xlm.modules.chosen import Chosen
from xlm.modules.layers import init_transformer_weights
from xlm.modules.packing import Packing
from xlm.modules.rotary_network import RotaryNetwork, rotary_stack
from xlm.modules.rotary_transformer import RotaryTransformerFinalLayerForClassification


class RotaryILM(RotaryNetwork):
    """Logits of inserting each token into each gap, and of how many tokens are missing (arXiv 2505.05755).

    Args:
        num_embeddings: vocabulary, special tokens included (V).
        d_model, num_layers, nhead, dim_feedforward: sizes; dim_feedforward None is 4 · d_model.
        dropout, activation, layer_norm_eps: of every layer.
        num_classes: of the head on CLS. Class c stands for c missing tokens, the last class for that many or more:
            with 2 it says complete or not.
        max_length, short_conv, rotary_base, rotary_max_frequency: see `rotary_stack`.
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
        num_classes: int = 2,
        max_length: int = 1024,
        short_conv: bool = False,
        rotary_base: float = 10000.0,
        rotary_max_frequency: float = 1.0,
    ) -> None:
        super().__init__()
        self.embed_tokens, self.embed_types, _, self.layers, self.final_layer = rotary_stack(
            num_embeddings, d_model, num_layers, nhead, dim_feedforward, dropout, activation, layer_norm_eps,
            max_length, rotary_base, rotary_max_frequency, short_conv=short_conv,
            num_token_types=3,
        )  # fmt: skip
        self.length_head = RotaryTransformerFinalLayerForClassification(d_model, num_classes, dropout, layer_norm_eps)
        # Vectors of length 1 on average. Narrow networks learn several times faster from it than from GPT-2's 0.02.
        init_transformer_weights(self, std=d_model**-0.5, num_layers=num_layers)

    def hidden(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        token_type_ids: Integer[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
        token_index: Integer[Tensor, " tokens"] | None = None,
        chosen: Chosen | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """Hidden vectors before both heads.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), True where a token is real; None = all.
            token_type_ids: (B, L), 0 CLS, 1 prompt, 2 the rest; None = all 2.
            positions: (B, L); None counts the real tokens of each row from 0, so that padding moves nothing.
            token_index: real tokens in the flattened batch, which saves computing the padding; see `Packing`.
            chosen: the positions that will be read; the others are zeros then.
        """
        packing, num_rows = Packing.of(attention_mask, token_index), len(input_ids)
        types = torch.full_like(input_ids, 2) if token_type_ids is None else token_type_ids
        attention_mask = drop_full_mask(attention_mask)
        if packing is not None:
            input_ids, types, positions = packing.pack(input_ids), packing.pack(types), packing.positions(positions)
        elif attention_mask is not None and positions is None:
            positions = positions_from_mask(attention_mask)
        x = self.embed_tokens(input_ids) + self.embed_types(types)
        hidden: Tensor = self.layers(x, attention_mask, positions, packing=packing, chosen=chosen)
        if chosen is not None:
            return chosen.put(hidden.squeeze(0), num_rows)
        return hidden if packing is None else packing.unpack(hidden)

    @staticmethod
    def read_at(open_gaps: Integer[Tensor, " gaps"], cls_position: Integer[Tensor, " batch"], length: int) -> Chosen:
        """What both heads read: open gaps, as flat positions of (B, L), and CLS, whose gap is never open."""
        cls_index = torch.arange(len(cls_position), device=cls_position.device) * length + cls_position
        return Chosen.of(torch.cat([open_gaps, cls_index]).sort().values, length)

    def length_logits(
        self, hidden: Float[Tensor, "batch length d_model"], cls_position: Integer[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the number of missing tokens, read at CLS."""
        at_cls = hidden[torch.arange(len(hidden), device=hidden.device), cls_position]
        return self.length_head(at_cls)

    def forward(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        token_type_ids: Integer[Tensor, "batch length"] | None = None,
        cls_position: Integer[Tensor, " batch"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length vocab"], Float[Tensor, "batch classes"]]:
        """Dense logits (B, L, V) of insertions right of each column, and (B, C) of the head on CLS.

        For looking at; loss and predictor run the token head on open gaps only. cls_position None = column 0.
        """
        h = self.hidden(input_ids, attention_mask, token_type_ids, positions)
        cls_position = torch.zeros_like(input_ids[:, 0]) if cls_position is None else cls_position
        return self.final_layer(h), self.length_logits(h, cls_position)

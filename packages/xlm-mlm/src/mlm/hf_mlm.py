"""The masked network as a backbone of transformers: any AutoModelForMaskedLM, trained or new."""

from __future__ import annotations

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from xlm.modules.attention import drop_full_mask
from xlm.modules.pretrained import PretrainedNetwork


class HFMaskedLM(PretrainedNetwork):
    """p(x_i | what is visible) by a BERT-like network; arguments as for `PretrainedNetwork`."""

    auto_class = AutoModelForMaskedLM

    @property
    def output_layer(self) -> nn.Linear:
        """The linear map from features to logits."""
        return self.head

    def features(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """What the output layer reads; arguments as for `RotaryMLM.features`."""
        return self._run(input_ids, drop_full_mask(attention_mask), positions)

    def forward(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits at every position, (B, L, V)."""
        return self.head(self.features(input_ids, attention_mask, positions))

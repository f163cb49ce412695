"""The diffusion network as a backbone of transformers: any AutoModelForMaskedLM, which tells the time by the masks."""

from __future__ import annotations

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from xlm.modules.attention import drop_full_mask
from xlm.modules.pretrained import PretrainedNetwork


class HFMaskedDiffusion(PretrainedNetwork):
    """p(x_i | z_t) by a BERT-like network, without time conditioning; arguments as for `PretrainedNetwork`."""

    auto_class = AutoModelForMaskedLM
    time_conditioning = False

    @property
    def output_layer(self) -> nn.Linear:
        """The linear map from features to logits."""
        return self.head

    def features(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        sigma: Float[Tensor, " batch"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """What the output layer reads; arguments as for `DiTMDLM.features`, `sigma` not looked at."""
        return self._run(input_ids, drop_full_mask(attention_mask), positions)

    def forward(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        sigma: Float[Tensor, " batch"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits at every position, (B, L, V)."""
        return self.head(self.features(input_ids, attention_mask, sigma, positions))

"""The diffusion network as a backbone of transformers: any AutoModelForMaskedLM, which tells the time by the masks."""

from __future__ import annotations

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.modules.pretrained import PretrainedMaskedNetwork


class HFMaskedDiffusion(PretrainedMaskedNetwork):
    """p(x_i | z_t) by a BERT-like network, without time conditioning; arguments as for `PretrainedNetwork`."""

    time_conditioning = False

    def features(  # type: ignore[override]  # sigma in the place where `DiTMDLM` has it
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        sigma: Float[Tensor, " batch"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """What the output layer reads; arguments as for `DiTMDLM.features`, `sigma` not looked at."""
        return super().features(input_ids, attention_mask, positions)

    def forward(  # type: ignore[override]
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        sigma: Float[Tensor, " batch"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits at every position, (B, L, V)."""
        return self.head(self.features(input_ids, attention_mask, sigma, positions))

"""Batches and outputs of masked diffusion."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from xlm.masked.collate import MaskedBatch, MaskedLossDict, MaskedPredictionBatch
from xlm.masked.predictor import MaskedPredictionDict

__all__ = ["MDLMBatch", "MDLMLossDict", "MDLMPredictionBatch", "MDLMPredictionDict"]

MDLMLossDict = MaskedLossDict
MDLMPredictionBatch = MaskedPredictionBatch
MDLMPredictionDict = MaskedPredictionDict


class MDLMBatch(MaskedBatch):
    """What the loss reads: z_t in `input_ids`, x under its masks in `target_ids`, and the schedule at t."""

    # σ(t), the condition of the network.
    sigma: Float[Tensor, " batch"]
    # −α′(t) / (1 − α(t)).
    weight: Float[Tensor, " batch"]

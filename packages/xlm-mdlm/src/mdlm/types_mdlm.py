"""Batches and outputs of masked diffusion."""

from __future__ import annotations

from typing import TypedDict

from jaxtyping import Float
from torch import Tensor

from xlm.decoding.collate import MaskedBatch, MaskedPredictionBatch
from xlm.decoding.output import MaskedPredictionDict

__all__ = ["MDLMBatch", "MDLMLossDict", "MDLMPredictionBatch", "MDLMPredictionDict"]

MDLMPredictionBatch = MaskedPredictionBatch
MDLMPredictionDict = MaskedPredictionDict


class MDLMBatch(MaskedBatch):
    """What the loss reads: z_t in `input_ids`, x under its masks in `target_ids`, and the schedule at t."""

    # σ(t), the condition of the network.
    sigma: Float[Tensor, " batch"]
    # −α′(t) / (1 − α(t)).
    weight: Float[Tensor, " batch"]


class MDLMLossDict(TypedDict):
    """What the loss returns."""

    loss: Float[Tensor, ""]
    num_loss_terms: int | Tensor

"""Batches and outputs of the masked model."""

from __future__ import annotations

from typing import TypedDict

from jaxtyping import Float
from torch import Tensor

from xlm.decoding.collate import MaskedBatch, MaskedPredictionBatch
from xlm.decoding.output import MaskedPredictionDict

__all__ = ["MLMBatch", "MLMLossDict", "MLMPredictionBatch", "MLMPredictionDict"]

# Its `t` is the probability with which a maskable token of the row was masked.
MLMBatch = MaskedBatch
MLMPredictionBatch = MaskedPredictionBatch
MLMPredictionDict = MaskedPredictionDict


class MLMLossDict(TypedDict):
    """What the loss returns."""

    loss: Float[Tensor, ""]
    num_loss_terms: int | Tensor

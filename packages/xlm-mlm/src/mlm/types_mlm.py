"""Batches and outputs of the masked model: those of all masked families."""

from __future__ import annotations

from xlm.masked.collate import MaskedBatch, MaskedLossDict, MaskedPredictionBatch
from xlm.masked.predictor import MaskedPredictionDict

__all__ = ["MLMBatch", "MLMLossDict", "MLMPredictionBatch", "MLMPredictionDict"]

# Its `t` is the probability with which a maskable token of the row was masked.
MLMBatch = MaskedBatch
MLMLossDict = MaskedLossDict
MLMPredictionBatch = MaskedPredictionBatch
MLMPredictionDict = MaskedPredictionDict

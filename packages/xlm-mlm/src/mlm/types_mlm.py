"""Batches and outputs of the masked model; B rows, L columns, N masked positions."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.collate import MaskedPredictionBatch
from xlm.decoding.output import MaskedPredictionDict

__all__ = ["MLMBatch", "MLMLossDict", "MLMPredictionBatch", "MLMPredictionDict"]

MLMPredictionBatch = MaskedPredictionBatch
MLMPredictionDict = MaskedPredictionDict


class MLMBatch(TypedDict):
    """What the loss reads."""

    # Some tokens replaced by the mask.
    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # The token under each mask; -100 elsewhere.
    target_ids: Integer[Tensor, "batch length"]
    # Where target_ids is not -100, as indices into the flattened (B·L) positions.
    target_index: NotRequired[Integer[Tensor, " masks"]]
    # What could have been masked.
    maskable: Bool[Tensor, "batch length"]
    # With which probability a maskable token of the row was masked.
    t: Float[Tensor, " batch"]
    # Real tokens among the maskable ones: filling behind an answer is learnt, but not counted.
    num_tokens: Integer[Tensor, " batch"]
    # Each example's own random stream.
    noise_seed: Integer[Tensor, " batch"]


class MLMLossDict(TypedDict):
    """What the loss returns."""

    loss: Float[Tensor, ""]
    num_loss_terms: int | Tensor

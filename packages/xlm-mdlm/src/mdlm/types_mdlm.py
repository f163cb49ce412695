"""Batches and outputs of masked diffusion; B rows, L columns, N masked positions."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.collate import MaskedPredictionBatch
from xlm.decoding.output import MaskedPredictionDict

__all__ = ["MDLMBatch", "MDLMLossDict", "MDLMPredictionBatch", "MDLMPredictionDict"]

MDLMPredictionBatch = MaskedPredictionBatch
MDLMPredictionDict = MaskedPredictionDict


class MDLMBatch(TypedDict):
    """What the loss reads: z_t, x where z_t is masked, and the schedule at t."""

    # z_t: some tokens replaced by the mask.
    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # The token under each mask; -100 elsewhere.
    target_ids: Integer[Tensor, "batch length"]
    # Where target_ids is not -100, as indices into the flattened (B·L) positions.
    target_index: NotRequired[Integer[Tensor, " masks"]]
    # What could have been masked.
    maskable: Bool[Tensor, "batch length"]
    t: Float[Tensor, " batch"]
    # σ(t), the condition of the network.
    sigma: Float[Tensor, " batch"]
    # −α′(t) / (1 − α(t)).
    weight: Float[Tensor, " batch"]
    # Real tokens among the maskable ones: filling behind an answer is learnt, but not counted.
    num_tokens: Integer[Tensor, " batch"]
    # Each example's own random stream.
    noise_seed: Integer[Tensor, " batch"]


class MDLMLossDict(TypedDict):
    """What the loss returns."""

    loss: Float[Tensor, ""]
    num_loss_terms: int | Tensor

"""Batches and outputs of the left-to-right model; B rows, L columns, T answer columns, N rows with a target."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Integer
from torch import Tensor


class ARLMBatch(TypedDict):
    """What the loss reads."""

    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # input_ids shifted left by one; -100 where nothing is to be predicted.
    target_ids: Integer[Tensor, "batch length"]
    # Where target_ids is not -100, as indices into the flattened (B·L) positions.
    target_index: NotRequired[Integer[Tensor, " targets"]]
    # Real tokens in the flattened (B·L) positions, for batches whose padding is not computed.
    token_index: NotRequired[Integer[Tensor, " tokens"]]
    # Whether some row starts with padding; only then does causal attention need a mask.
    left_padded: NotRequired[bool]


class ARLMPredictionBatch(TypedDict):
    """What the predictor reads: prompts that end with BOS, and the true answers apart from them."""

    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # True answer and EOS, right-padded with the pad token.
    target_ids: NotRequired[Integer[Tensor, "batch answer"]]
    # Each example's own random stream.
    noise_seed: NotRequired[Integer[Tensor, " batch"]]


class ARLMLossDict(TypedDict):
    """What the loss returns."""

    loss: Float[Tensor, ""]
    num_loss_terms: int | Tensor


class ARLMPredictionDict(TypedDict):
    """What the predictor returns; `ids` are prompts followed by answers, the answer's EOS included, then pads.

    `network_calls`: forward passes in which each row took part, one per token that was drawn for it.
    """

    ids: Integer[Tensor, "batch total"]
    attention_mask: Bool[Tensor, "batch total"]
    text: list[str]
    output_start_idx: int
    steps_taken: Integer[Tensor, " batch"]
    network_calls: Integer[Tensor, " batch"]

"""Batches and outputs; B rows, L columns."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Integer
from torch import Tensor


class TidyBatch(TypedDict):
    """What loss and predictor read; targets only where there is an answer."""

    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # The next token of each position, -100 where none is to be learnt.
    target_ids: NotRequired[Integer[Tensor, "batch target"]]


class TidyLossDict(TypedDict):
    """What the loss returns."""

    loss: Float[Tensor, ""]
    num_loss_terms: Integer[Tensor, ""]


class TidyPredictionDict(TypedDict):
    """What the predictor returns."""

    ids: Integer[Tensor, "batch total"]
    text: list[str]
    output_start_idx: int
    steps_taken: Integer[Tensor, " batch"]

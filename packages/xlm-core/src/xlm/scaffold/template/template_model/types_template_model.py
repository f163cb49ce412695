"""Batches and outputs of template_model; B rows, L columns, P prompt columns, T answer columns.

The types include shapes, which document the inputs and outputs of the other files.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Integer
from torch import Tensor

# TODO: change these when your collators or your predictor return something else. Outside this package
# only core's metrics read a batch: its `target_ids`, and `ids` and `output_start_idx` of a prediction.


class TemplateModelBatch(TypedDict):
    """What a collator makes for the loss."""

    input_ids: Integer[Tensor, "batch length"]
    # True where a token is real, False at padding.
    attention_mask: Bool[Tensor, "batch length"]
    # The target of each position; -100 where there is none.
    target_ids: Integer[Tensor, "batch length"]


class TemplateModelPredictionBatch(TypedDict):
    """What a collator makes for the predictor."""

    # Prompts, padded on the left, so that all answers start in the same column.
    input_ids: Integer[Tensor, "batch prompt"]
    attention_mask: Bool[Tensor, "batch prompt"]
    # The true answers with EOS, padded on the right; absent if they are unknown.
    target_ids: NotRequired[Integer[Tensor, "batch answer"]]


class TemplateModelLossDict(TypedDict):
    """What the loss returns."""

    # The mean over the targets, in nats.
    loss: Float[Tensor, ""]
    # The number of targets, by which metrics weight batches.
    num_loss_terms: Integer[Tensor, ""]


class TemplateModelPredictionDict(TypedDict):
    """What the predictor returns: prompts, then answers with their EOS, then pads."""

    ids: Integer[Tensor, "batch total"]
    attention_mask: Bool[Tensor, "batch total"]
    text: list[str]
    # Answers are ids[:, output_start_idx:].
    output_start_idx: int
    # Number of tokens generated for each row.
    steps_taken: Integer[Tensor, " batch"]

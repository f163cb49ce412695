"""What goes into the model and what comes out of it."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor


class FlexBatch(TypedDict, total=False):
    """`fixed` is True where a token is given and never masked."""

    input_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, L) bool
    fixed: Tensor  # (B, L) bool
    target_ids: Tensor  # (B, L), -100 where nothing is predicted; the true answer in prediction
    t: Tensor  # (B,)


class FlexLossDict(TypedDict):
    """The loss of each row too."""

    loss: Tensor
    nlls: Tensor


class FlexPrediction(TypedDict):
    """Rows without masks."""

    ids: Tensor
    text: list[str]
    output_start_idx: int
    steps_taken: Tensor
    history: list[Any]

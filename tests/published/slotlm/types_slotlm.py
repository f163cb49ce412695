"""What goes into the slot model and what comes out of it."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from torch import Tensor

from xlm.datamodule import BaseBatch


class SlotBatch(BaseBatch):
    """A prompt and its answer; a slot is the place after a token of the answer, or before the first."""

    token_type_ids: Tensor  # (B, L) 0 = prompt, 1 = answer
    slot_ids: NotRequired[Tensor]  # (B, L) token that comes after each position, -100 where none does
    slot_open: NotRequired[Tensor]  # (B, L) 1.0 where something comes after a position, else 0.0
    slot_mask: NotRequired[Tensor]  # (B, L) bool, where there are slots
    target_ids: NotRequired[Tensor]  # (B, T) the whole answer


class SlotLossDict(TypedDict):
    """The loss and its two parts."""

    loss: Tensor
    token_ce: Tensor
    length_loss: Tensor
    batch_loss: Tensor  # (B,)


class SlotPrediction(TypedDict):
    """Answers."""

    ids: Tensor  # (B, L)
    text: list[str]
    output_start_idx: int
    steps_taken: list[int]
    history: list[Any]

"""Collators of the masked model: language modelling, prompt with answer, and blocks or slots of masks to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mlm.types_mlm import MLMBatch
from xlm.data.collate import Limit, Truncate, limits, room
from xlm.data.tokenizers import check_mask_token
from xlm.datamodule import BaseCollatorInput, Collator, Seq2SeqCollator, Seq2SeqCollatorInput, Tokenizer
from xlm.decoding.collate import (
    CleanRows,
    MasksAfterPrompt,
    MasksInPlace,
    PadTo,
    answer_rows,
    masked_batch,
    noise_levels,
    noise_seeds,
)
from xlm.decoding.masking import draw_times
from xlm.decoding.text_length import TextLength, of_collator
from xlm.utils.rich_utils import print_batch

__all__ = ["MLMCollator", "MLMSeq2SeqCollator", "MasksAfterPrompt", "MasksInPlace", "print_batch_mlm"]


def training_batch(
    rows: CleanRows, seeds: Tensor, mask_token_id: int, levels: Tensor | None = None, t_min: float = 0.0
) -> MLMBatch:
    """Rows masked at rates t ~ U(t_min, 1), at their levels or each from its own seed."""
    t = draw_times(seeds, levels, t_min)
    return masked_batch(rows, t, t, seeds, mask_token_id)


@dataclass
class MLMCollator(Collator):
    """`[BOS] sequence [EOS] [rest of the block]`; everything after BOS may be masked.

    Args:
        tokenizer: gives BOS, EOS, the mask and the pad id.
        block_size: most tokens of a row, BOS and EOS included; None for no limit.
        noise_schedule, input_block_size: part of every collator's arguments, unused here.
        text_length: how the length of a text is known: "learnt" (None), "modelled", "given" or "lm1b_protocol"; see
            `xlm.decoding.text_length`.
        low_variance: t from the example's `noise_level`, evenly spread over an epoch, where it has one; else its seed.
        t_min: smallest t.
        truncate: what a longer row loses ("right": its end, with EOS), or "error".
        pad_to: "longest" row of the batch, or always "block" (static shapes, for `compile=true`).
        loss_on_padding: the older name, instead of text_length: true is "learnt", false is "given".
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    noise_schedule: Any = None
    input_block_size: int | None = None
    text_length: TextLength | None = None
    low_variance: bool = True
    t_min: float = 0.0
    truncate: Truncate = "right"
    pad_to: PadTo = "longest"
    loss_on_padding: bool | None = None

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def token_limits(self) -> dict[str, Limit]:
        return limits(text=room(self.block_size, 2), truncate=self.truncate)

    def __call__(self, examples: Sequence[BaseCollatorInput]) -> MLMBatch:
        rows = answer_rows(
            examples,
            self.tokenizer,
            with_prompt=False,
            block_size=self.block_size,
            text_length=of_collator(self.text_length, self.loss_on_padding),
            answer_truncate=self.truncate,
            pad_to=self.pad_to,
        )
        seeds = noise_seeds(examples)
        levels = noise_levels(examples) if self.low_variance else None
        return training_batch(rows, seeds, self.tokenizer.mask_token_id, levels, self.t_min)


@dataclass
class MLMSeq2SeqCollator(Seq2SeqCollator):
    """`[pads] prompt [BOS] answer [EOS]`, filled with EOS to the block; all after BOS may be masked.

    Args:
        tokenizer: gives BOS, EOS, the mask and the pad id.
        block_size: columns from BOS on.
        input_block_size: most tokens of the prompt.
        noise_schedule: part of every collator's arguments, unused here.
        text_length: how the length of an answer is known; see `xlm.decoding.text_length`. Prediction starts from a
            block of masks, so an answer's end has to be learnt or its length drawn.
        low_variance: t from the example's `noise_level`, evenly spread over an epoch, where it has one; else its seed.
        t_min: smallest t.
        prompt_truncate, answer_truncate: what a longer one loses, or "error".
        pad_to: "longest" prompt of the batch, or always "block" (static shapes, for `compile=true`).
        loss_on_padding: the older name, instead of text_length: true is "learnt", false is "given".
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    text_length: TextLength | None = None
    low_variance: bool = True
    t_min: float = 0.0
    prompt_truncate: Truncate = "error"
    answer_truncate: Truncate = "error"
    pad_to: PadTo = "longest"
    loss_on_padding: bool | None = None

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def token_limits(self) -> dict[str, Limit]:
        return limits(
            text=room(self.block_size, 2),
            prompt=self.input_block_size,
            truncate=self.answer_truncate,
            prompt_truncate=self.prompt_truncate,
        )

    def __call__(self, examples: Sequence[Seq2SeqCollatorInput]) -> MLMBatch:
        rows = answer_rows(
            examples,
            self.tokenizer,
            with_prompt=True,
            block_size=self.block_size,
            input_block_size=self.input_block_size,
            text_length=of_collator(self.text_length, self.loss_on_padding),
            prompt_truncate=self.prompt_truncate,
            answer_truncate=self.answer_truncate,
            pad_to=self.pad_to,
        )
        seeds = noise_seeds(examples)
        levels = noise_levels(examples) if self.low_variance else None
        return training_batch(rows, seeds, self.tokenizer.mask_token_id, levels, self.t_min)


print_batch_mlm = print_batch

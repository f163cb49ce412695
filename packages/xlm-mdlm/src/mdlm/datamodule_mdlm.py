"""Collators of masked diffusion: language modelling, prompt with answer, and blocks or slots of masks to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mdlm.types_mdlm import MDLMBatch
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
from xlm.decoding.masking import StretchedSchedule, draw_times
from xlm.decoding.text_length import TextLength, of_collator
from xlm.errors import ConfigError
from xlm.noise import MaskingSchedule
from xlm.utils.rich_utils import print_batch

__all__ = ["MDLMCollator", "MDLMSeq2SeqCollator", "MasksAfterPrompt", "MasksInPlace", "print_batch_mdlm"]


def training_batch(
    rows: CleanRows,
    seeds: Tensor,
    mask_token_id: int,
    noise_schedule: Any,
    levels: Tensor | None = None,
    t_min: float = 0.0,
) -> MDLMBatch:
    """z_t of every row at t ~ U(t_min, 1), at their levels or each from its own seed, and the schedule at t."""
    if not isinstance(noise_schedule, MaskingSchedule):
        raise ConfigError(
            f"Masked diffusion needs a noise schedule with α(t); noise_schedule is {type(noise_schedule).__name__}.\n"
            "Choose noise_schedule=log_linear (or cosine, geometric, linear, polynomial)."
        )
    schedule = StretchedSchedule(noise_schedule)
    t = draw_times(seeds, levels, t_min)
    return {
        **masked_batch(rows, t, schedule.rate(t), seeds, mask_token_id),
        "sigma": noise_schedule.sigma(t).float(),
        "weight": schedule.weight(t).float(),
    }


@dataclass
class MDLMCollator(Collator):
    """`[BOS] sequence [EOS] [rest of the block]`; everything after BOS may be masked.

    Args:
        tokenizer: gives BOS, EOS, the mask and the pad id.
        block_size: most tokens of a row, BOS and EOS included; None for no limit.
        noise_schedule: α(t) and what follows from it.
        input_block_size: part of every collator's arguments, unused here.
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

    def __call__(self, examples: Sequence[BaseCollatorInput]) -> MDLMBatch:
        rows = answer_rows(
            examples,
            self.tokenizer,
            with_prompt=False,
            block_size=self.block_size,
            text_length=of_collator(self.text_length, self.loss_on_padding),
            answer_truncate=self.truncate,
            pad_to=self.pad_to,
        )
        mask_token_id = self.tokenizer.mask_token_id
        seeds = noise_seeds(examples)
        levels = noise_levels(examples) if self.low_variance else None
        return training_batch(rows, seeds, mask_token_id, self.noise_schedule, levels, self.t_min)


@dataclass
class MDLMSeq2SeqCollator(Seq2SeqCollator):
    """`[pads] prompt [BOS] answer [EOS]`, filled with EOS to the block; all after BOS may be masked.

    Args:
        tokenizer: gives BOS, EOS, the mask and the pad id.
        block_size: columns from BOS on.
        input_block_size: most tokens of the prompt.
        noise_schedule: α(t) and what follows from it.
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

    def __call__(self, examples: Sequence[Seq2SeqCollatorInput]) -> MDLMBatch:
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
        mask_token_id = self.tokenizer.mask_token_id
        seeds = noise_seeds(examples)
        levels = noise_levels(examples) if self.low_variance else None
        return training_batch(rows, seeds, mask_token_id, self.noise_schedule, levels, self.t_min)


print_batch_mdlm = print_batch

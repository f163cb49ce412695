"""Collators of the left-to-right model: language modelling, prompt with answer, prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arlm.types_arlm import ARLMBatch, ARLMPredictionBatch
from xlm.data.collate import (
    IGNORE,
    Limit,
    Padded,
    PadTo,
    Truncate,
    limits,
    pad_ids,
    pad_prompt_and_answer,
    room,
    seed_and_truth,
    seq2seq_limits,
    width,
)
from xlm.datamodule import (
    BaseCollatorInput,
    Collator,
    Seq2SeqCollator,
    Seq2SeqCollatorInput,
    Seq2SeqCollatorPrediction,
    Tokenizer,
)
from xlm.utils.rich_utils import print_batch


def shifted_targets(padded: Padded, first_target: int) -> Tensor:
    """(B, L): the next real token of each position, for tokens from column `first_target` on; -100 elsewhere."""
    targets = torch.full_like(padded.ids, IGNORE)
    is_target = padded.mask[:, 1:] & padded.mask[:, :-1]
    is_target[:, : max(first_target - 1, 0)] = False
    targets[:, :-1] = torch.where(is_target, padded.ids[:, 1:], IGNORE)
    return targets


def training_batch(padded: Padded, first_target: int) -> ARLMBatch:
    """The batch of a padded rectangle whose targets start at a column."""
    targets = shifted_targets(padded, first_target)
    return {
        "input_ids": padded.ids,
        "attention_mask": padded.mask,
        "target_ids": targets,
        # Found here, on the CPU and in a worker: on a GPU it would make every step wait.
        "target_index": (targets.view(-1) != IGNORE).nonzero().squeeze(-1),
        "left_padded": not bool(padded.mask[:, 0].all()),
    }


@dataclass
class ARLMCollator(Collator):
    """`[BOS] sequence [EOS]`, padded on the right; everything after BOS is a target.

    Args:
        tokenizer: gives BOS, EOS and the pad id.
        block_size: most tokens of a row, BOS and EOS included; None for no limit.
        noise_schedule, input_block_size: part of every collator's arguments, unused here.
        truncate: what a longer row loses ("right": its end, with EOS), or "error".
        pad_to: "longest" row of the batch, or always "block" (static shapes, for `compile=true`).
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    noise_schedule: Any = None
    input_block_size: int | None = None
    truncate: Truncate = "right"
    pad_to: PadTo = "longest"

    def token_limits(self) -> dict[str, Limit]:
        return limits(text=room(self.block_size, 2), truncate=self.truncate)

    def __call__(self, examples: Sequence[BaseCollatorInput]) -> ARLMBatch:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        rows = [[bos, *example["input_ids"], eos] for example in examples]
        length = width(rows, self.block_size, self.pad_to)
        padded = pad_ids(rows, self.tokenizer.pad_token_id, length=length, truncate=self.truncate)
        return training_batch(padded, first_target=1)


@dataclass
class ARLMSeq2SeqCollator(Seq2SeqCollator):
    """`[pads] prompt [BOS] answer [EOS] [pads]`; the answer and its EOS are targets, the prompt only on request.

    Args:
        tokenizer: gives BOS, EOS and the pad id.
        block_size: most tokens of BOS, answer and EOS together; None for no limit.
        input_block_size: most tokens of the prompt.
        noise_schedule: part of every collator's arguments, unused here.
        loss_on_prompt: make the prompt's tokens targets too.
        prompt_truncate, answer_truncate: what a longer one loses, or "error".
        pad_to: "longest" row of the batch, or always "block" (static shapes, for `compile=true`).
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    loss_on_prompt: bool = False
    prompt_truncate: Truncate = "error"
    answer_truncate: Truncate = "error"
    pad_to: PadTo = "longest"

    def token_limits(self) -> dict[str, Limit]:
        return seq2seq_limits(self)

    def __call__(self, examples: Sequence[Seq2SeqCollatorInput]) -> ARLMBatch:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        prompts = [list(example["prompt_ids"]) for example in examples]
        answers = [[bos, *example["input_ids"], eos] for example in examples]
        padded, start = pad_prompt_and_answer(
            prompts,
            answers,
            self.tokenizer.pad_token_id,
            prompt_length=width(prompts, self.input_block_size, self.pad_to),
            answer_length=width(answers, self.block_size, self.pad_to),
            prompt_truncate=self.prompt_truncate,
            answer_truncate=self.answer_truncate,
        )
        return training_batch(padded, first_target=0 if self.loss_on_prompt else start + 1)


@dataclass
class ARLMSeq2SeqPredCollator(Seq2SeqCollatorPrediction):
    """`[pads] prompt [BOS]` to go on from, the true answer apart; without prompts (unconditional) BOS alone.

    Args:
        tokenizer: gives BOS, EOS and the pad id.
        block_size: most tokens of the true answer and its EOS, BOS counted in as in training; longer ones are kept
            whole, because a cut truth would be scored as reached.
        input_block_size: most tokens of the prompt.
        noise_schedule: part of every collator's arguments, unused here.
        prompt_truncate: what a longer prompt loses, or "error".
        pad_to: "longest" prompt of the batch, or always "block".
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    prompt_truncate: Truncate = "error"
    pad_to: PadTo = "longest"

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=self.input_block_size, prompt_truncate=self.prompt_truncate)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> ARLMPredictionBatch:
        pad, bos = self.tokenizer.pad_token_id, self.tokenizer.bos_token_id
        prompts = [list(example.get("prompt_ids") or []) for example in examples]
        start = [[bos] for _ in examples]
        padded, _ = pad_prompt_and_answer(
            prompts,
            start,
            pad,
            prompt_length=width(prompts, self.input_block_size, self.pad_to),
            prompt_truncate=self.prompt_truncate,
        )
        batch: Any = {"input_ids": padded.ids, "attention_mask": padded.mask}
        found: ARLMPredictionBatch = batch | seed_and_truth(examples, self.tokenizer)
        return found


print_batch_arlm = print_batch

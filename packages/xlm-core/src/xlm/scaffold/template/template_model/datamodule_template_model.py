"""The collators of template_model: lists of examples in, batches out.

An example has `input_ids` (a text, or the answer to a prompt), `prompt_ids` where there are prompts, and `noise_seed`,
an integer that must be the only source of randomness in a collator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from template_model.types_template_model import TemplateModelBatch, TemplateModelPredictionBatch
from xlm.data.collate import Limit, Padded, limits, pad_ids, pad_prompt_and_answer, room, truncate_ids
from xlm.datamodule import (
    BaseCollatorInput,
    Collator,
    Seq2SeqCollator,
    Seq2SeqCollatorInput,
    Seq2SeqCollatorPrediction,
    Tokenizer,
)
from xlm.utils.rich_utils import print_batch

# TODO: define what your model sees and predicts. The arguments of a collator are the keys of its file in
# configs/collator/; configs/model_type/template_model.yaml assigns a collator to each role.


def fitting(ids: Sequence[int], max_length: int | None, name: str) -> Sequence[int]:
    """`ids`; DataError if they are longer than `max_length`."""
    return ids if max_length is None else truncate_ids(ids, max_length, "error", name)


def next_token_batch(padded: Padded, first_target: int) -> TemplateModelBatch:
    """A batch whose targets are the next tokens, for real tokens from column `first_target` on."""
    is_target = padded.mask[:, 1:].clone()
    is_target[:, : first_target - 1] = False
    targets = torch.full_like(padded.ids, -100)
    targets[:, :-1] = padded.ids[:, 1:].masked_fill(~is_target, -100)
    return {"input_ids": padded.ids, "attention_mask": padded.mask, "target_ids": targets}


@dataclass
class TemplateModelCollator(Collator):
    """Role `lm`: `[BOS] text [EOS] [pads]`; everything after BOS is a target.

    Args:
        tokenizer: for the ids of BOS, EOS and padding.
        block_size: maximum length of a row, BOS and EOS included; longer rows are truncated.
        input_block_size, noise_schedule: passed to every collator; unused here.
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None

    def token_limits(self) -> dict[str, Limit]:
        return limits(text=room(self.block_size, 2), truncate="right")

    def __call__(self, examples: Sequence[BaseCollatorInput]) -> TemplateModelBatch:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        rows = [[bos, *example["input_ids"], eos][: self.block_size] for example in examples]
        return next_token_batch(pad_ids(rows, self.tokenizer.pad_token_id), first_target=1)


@dataclass
class TemplateModelSeq2SeqCollator(Seq2SeqCollator):
    """Role `seq2seq`: `[pads] prompt [BOS] answer [EOS] [pads]`; the answer and its EOS are targets.

    Args:
        tokenizer: for the ids of BOS, EOS and padding.
        block_size: maximum length of BOS, answer and EOS together; a longer one is an error.
        input_block_size: maximum length of the prompt; a longer one is an error.
        noise_schedule: passed to every collator; unused here.
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None

    def token_limits(self) -> dict[str, Limit]:
        return limits(text=room(self.block_size, 2), prompt=self.input_block_size)

    def __call__(self, examples: Sequence[Seq2SeqCollatorInput]) -> TemplateModelBatch:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        padded, start = pad_prompt_and_answer(
            [fitting(example["prompt_ids"], self.input_block_size, "prompt") for example in examples],
            [fitting([bos, *example["input_ids"], eos], self.block_size, "answer") for example in examples],
            self.tokenizer.pad_token_id,
        )
        return next_token_batch(padded, first_target=start + 1)


@dataclass
class TemplateModelSeq2SeqPredCollator(Seq2SeqCollatorPrediction):
    """Role `seq2seq_pred`: `[pads] prompt [BOS]`; the answer is in `target_ids`. Role `unconditional`: `[BOS]`.

    Args:
        tokenizer: for the ids of BOS, EOS and padding.
        input_block_size: maximum length of the prompt; a longer one is an error.
        block_size, noise_schedule: passed to every collator; unused here.
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=self.input_block_size)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> TemplateModelPredictionBatch:
        pad, bos, eos = (getattr(self.tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos"))
        prompts = [fitting(example.get("prompt_ids") or [], self.input_block_size, "prompt") for example in examples]
        padded, _ = pad_prompt_and_answer(prompts, [[bos] for _ in examples], pad)
        batch: TemplateModelPredictionBatch = {"input_ids": padded.ids, "attention_mask": padded.mask}
        if all("prompt_ids" in example and example.get("input_ids") is not None for example in examples):
            batch["target_ids"] = pad_ids([[*example["input_ids"], eos] for example in examples], pad).ids
        return batch


# Prints the first batch of every loader: shapes, and the first row as tokens. TODO: replace it if you like.
print_batch_template_model = print_batch

"""Collators, a little corpus, and an empty dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from flexlm.types import FlexBatch
from xlm.datamodule import (
    BaseCollatorInput,
    Collator,
    DatasetManager,
    Seq2SeqCollator,
    Seq2SeqCollatorInput,
    Seq2SeqCollatorPrediction,
    SimpleSpaceTokenizer,
    TextDataModule,
    Tokenizer,
    UnconditionalGenerationDatasetManager,
)
from xlm.utils.nn import pad_truncate_list

__all__ = ["DatasetManager", "SimpleSpaceTokenizer", "UnconditionalGenerationDatasetManager"]


class CountingCorpus:
    """Texts that count: rows of token ids `n, n + 1, …`, three to six of them."""

    def __init__(self, tokenizer: Tokenizer, num_examples: int, start: int = 0):
        self.tokenizer = tokenizer
        self.num_examples = num_examples
        self.start = start

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for i in range(self.num_examples):
            first = self.start + i % 10
            words = [str(first + j) for j in range(3 + i % 4)]
            yield {"token_ids": self.tokenizer.convert_tokens_to_ids(words)}


class EmptyDataset:
    """So many examples of nothing."""

    def __init__(self, tokenizer: Tokenizer, num_examples: int):
        self.num_examples = num_examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([{"input_ids": [], "prompt_ids": []} for _ in range(self.num_examples)])


def truncate(example: dict[str, Any], tokenizer: Tokenizer, longest: int = 64, **kwargs: Any) -> dict[str, Any]:
    """An on-the-fly processor."""
    example["input_ids"] = example["input_ids"][:longest]
    return example


class FlexModuleData(TextDataModule):
    """A data module by another name."""


class _Base:
    def __init__(
        self,
        tokenizer: Tokenizer,
        block_size: int,
        noise_schedule: Any = None,
        input_block_size: int | None = None,
        add_eos: bool = True,
    ):
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.noise_schedule = noise_schedule
        self.input_block_size = input_block_size
        self.add_eos = add_eos

    def noised(self, given: list[list[int]], answers: list[list[int]]) -> FlexBatch:
        """Mask each answer token with the probability that the schedule has for the row's time."""
        tokenizer = self.tokenizer
        ids = torch.tensor([prompt + answer for prompt, answer in zip(given, answers, strict=True)])
        fixed = torch.zeros_like(ids, dtype=torch.bool)
        fixed[:, : len(given[0])] = True
        t = self.noise_schedule.sample_t(len(ids))
        drawn = torch.from_numpy(np.random.rand(*ids.shape)).float()
        masked = (drawn < self.noise_schedule(t)[:, None]) & ~fixed
        return {
            "input_ids": ids.masked_fill(masked, tokenizer.mask_token_id),
            "attention_mask": (ids != tokenizer.pad_token_id) | ~fixed,
            "fixed": fixed,
            "target_ids": ids.masked_fill(~masked, -100),
            "t": t,
        }

    def answer(self, ids: list[int]) -> list[int]:
        eos = [self.tokenizer.eos_token_id] if self.add_eos else []
        return pad_truncate_list([*ids, *eos], self.block_size, self.tokenizer.eos_token_id)

    def prompt(self, ids: list[int]) -> list[int]:
        pad, bos = self.tokenizer.pad_token_id, self.tokenizer.bos_token_id
        length = len(ids) if self.input_block_size is None else self.input_block_size
        return [*pad_truncate_list(list(ids), length, pad, pad_left=True), bos]


class FlexCollator(_Base, Collator):
    """For language modelling."""

    def __call__(self, examples: list[BaseCollatorInput]) -> FlexBatch:
        return self.noised([self.prompt([]) for _ in examples], [self.answer(e["input_ids"]) for e in examples])


class FlexSeq2SeqCollator(_Base, Seq2SeqCollator):
    """For prompt and answer."""

    def __call__(self, examples: list[Seq2SeqCollatorInput]) -> FlexBatch:
        return self.noised(
            [self.prompt(e["prompt_ids"]) for e in examples], [self.answer(e["input_ids"]) for e in examples]
        )


class FlexPredCollator(_Base, Seq2SeqCollatorPrediction):
    """Prompts alone."""

    def __call__(self, examples: list[Seq2SeqCollatorInput]) -> FlexBatch:
        ids = torch.tensor([self.prompt(e.get("prompt_ids", [])) for e in examples])
        return {
            "input_ids": ids,
            "attention_mask": ids != self.tokenizer.pad_token_id,
            "fixed": torch.ones_like(ids, dtype=torch.bool),
            "target_ids": torch.tensor([self.answer(e["input_ids"]) for e in examples]),
        }


def print_batch(batch: FlexBatch, split: str, tokenizer: Tokenizer, dataloader_name: str) -> None:
    """Show the first row."""
    print(f"FLEXLM BATCH {split}/{dataloader_name}: {tokenizer.batch_decode(batch['input_ids'][:1])[0]}")

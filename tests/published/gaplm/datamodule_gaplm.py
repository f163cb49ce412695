"""Collators and the printing of batches for the model of gaps."""

from __future__ import annotations

from typing import Any

import torch

from xlm.datamodule import BaseCollatorInput, Collator, Tokenizer
from xlm.noise import NoiseSchedule
from xlm.utils.nn import pad_truncate_list


class GapCollator(Collator):
    """`[BOS] tokens [PAD …]`, some of the tokens masked."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        block_size: int,
        noise_schedule: NoiseSchedule | None = None,
        input_block_size: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.noise_schedule = noise_schedule
        self.input_block_size = input_block_size

    def __call__(self, examples: list[BaseCollatorInput]) -> dict[str, Any]:
        pad = self.tokenizer.pad_token_id
        rows = [
            pad_truncate_list([self.tokenizer.bos_token_id, *example["input_ids"]], self.block_size, pad)
            for example in examples
        ]
        target_ids = torch.tensor(rows, dtype=torch.long)
        hidden = (torch.rand(target_ids.shape) < torch.rand(len(rows), 1)) & (target_ids != pad)
        hidden[:, 1] |= target_ids[:, 1] != pad
        return {
            "input_ids": target_ids.masked_fill(hidden, self.tokenizer.mask_token_id),
            "attention_mask": torch.ones_like(target_ids, dtype=torch.bool),
            "target_ids": target_ids.masked_fill(~hidden, -100),
        }


class GapEmptyCollator(GapCollator):
    """`[BOS] [MASK] …`: everything is to be written."""

    def __call__(self, examples: list[BaseCollatorInput]) -> dict[str, Any]:
        mask = self.tokenizer.mask_token_id
        rows = [
            pad_truncate_list([self.tokenizer.bos_token_id, *example["input_ids"]], self.block_size, mask)
            for example in examples
        ]
        input_ids = torch.tensor(rows, dtype=torch.long)
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids, dtype=torch.bool),
            "target_ids": None,
        }


def print_batch_gaplm(batch: dict[str, Any], split: str, tokenizer: Tokenizer, dataloader_name: str) -> None:
    """Show the first row of a batch."""
    print(f"GAPLM BATCH {split}/{dataloader_name}: {tokenizer.decode(batch['input_ids'][0])}")

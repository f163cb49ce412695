"""Collators, an empty dataset and the printing of batches for the slot model."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import IterableDataset

from slotlm.types_slotlm import SlotBatch
from xlm.datamodule import (
    BaseCollatorInput,
    Collator,
    Seq2SeqCollator,
    Seq2SeqCollatorInput,
    Seq2SeqCollatorPrediction,
    Tokenizer,
)
from xlm.noise import NoiseSchedule
from xlm.utils.nn import pad_truncate_list


class SlotEmptyDataset(IterableDataset):
    """So many examples without a token, to start generation from."""

    def __init__(self, tokenizer: Tokenizer, num_examples: int, prefix: list[int] | None = None):
        self.tokenizer = tokenizer
        self.num_examples = num_examples
        self.prefix = list(prefix or [])

    def __iter__(self):
        for _ in range(self.num_examples):
            yield {"input_ids": list(self.prefix)}


def blur_tokens(tokens: list[int], unk_token_id: int, rate: float = 0.05) -> tuple[list[int], list[int]]:
    """`tokens` with a few unreadable ones, and for the slot before and after each one the token that comes next."""
    seen = torch.rand(len(tokens)) >= rate
    blurred = [token if known else unk_token_id for token, known in zip(tokens, seen.tolist(), strict=True)]
    return blurred, [*tokens, -100]


def _tensors(ids: list[list[int]], types: list[list[int]], slots: list[list[int]], is_slot: list[list[bool]], pad: int):
    input_ids = torch.tensor(ids, dtype=torch.long)
    slot_ids = torch.tensor(slots, dtype=torch.long)
    return {
        "input_ids": input_ids,
        "attention_mask": input_ids != pad,
        "token_type_ids": torch.tensor(types, dtype=torch.long),
        "slot_ids": slot_ids,
        "slot_open": (slot_ids != -100).float(),
        "slot_mask": torch.tensor(is_slot, dtype=torch.bool),
    }


class SlotCollator(Collator):
    """For language modelling: `[BOS] tokens [PAD …]`."""

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

    def __call__(self, examples: list[BaseCollatorInput]) -> SlotBatch:
        pad, length = self.tokenizer.pad_token_id, self.block_size + 1
        ids, types, slots, is_slot = [], [], [], []
        for example in examples:
            blurred, missing = blur_tokens(list(example["input_ids"])[: self.block_size], self.tokenizer.unk_token_id)
            ids.append(pad_truncate_list([self.tokenizer.bos_token_id, *blurred], length, pad))
            types.append([1] * length)
            slots.append(pad_truncate_list(missing, length, -100))
            is_slot.append(pad_truncate_list([True] * len(missing), length, False))
        return _tensors(ids, types, slots, is_slot, pad)


class SlotSeq2SeqCollator(Seq2SeqCollator):
    """`[PAD …] prompt [BOS] answer [PAD …]`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        block_size: int,
        input_block_size: int | None = None,
        noise_schedule: NoiseSchedule | None = None,
    ):
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.input_block_size = input_block_size
        self.noise_schedule = noise_schedule

    def __call__(self, examples: list[Seq2SeqCollatorInput]) -> SlotBatch:
        pad = self.tokenizer.pad_token_id
        n_prompt, n_answer = self.input_block_size, self.block_size
        ids, types, slots, is_slot = [], [], [], []
        for example in examples:
            blurred, missing = blur_tokens(list(example["input_ids"])[:n_answer], self.tokenizer.unk_token_id)
            prompt = pad_truncate_list(list(example["prompt_ids"]), n_prompt, pad, pad_left=True)
            ids.append([*prompt, self.tokenizer.bos_token_id, *pad_truncate_list(blurred, n_answer, pad)])
            types.append([0] * n_prompt + [1] * (n_answer + 1))
            slots.append([-100] * n_prompt + pad_truncate_list(missing, n_answer + 1, -100))
            is_slot.append([False] * n_prompt + pad_truncate_list([True] * len(missing), n_answer + 1, False))
        batch = _tensors(ids, types, slots, is_slot, pad)
        answers = [pad_truncate_list(list(example["input_ids"]), n_answer, pad) for example in examples]
        batch["target_ids"] = torch.tensor(answers, dtype=torch.long)
        return batch


class SlotSeq2SeqPredCollator(Seq2SeqCollatorPrediction):
    """`[PAD …] prompt [BOS]`, and the whole answer as the target."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        block_size: int,
        input_block_size: int | None = None,
        noise_schedule: NoiseSchedule | None = None,
    ):
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.input_block_size = input_block_size
        self.noise_schedule = noise_schedule

    def __call__(self, examples: list[Seq2SeqCollatorInput]) -> SlotBatch:
        pad = self.tokenizer.pad_token_id
        prompts, answers = [], []
        for example in examples:
            prompt, num_padded = pad_truncate_list(
                list(example.get("prompt_ids", [])), self.input_block_size or 0, pad, True, return_num_padded=True
            )
            assert num_padded >= 0
            prompts.append([*prompt, self.tokenizer.bos_token_id])
            answers.append(pad_truncate_list(list(example["input_ids"]), self.block_size, pad))
        input_ids = torch.tensor(prompts, dtype=torch.long)
        return {
            "input_ids": input_ids,
            "attention_mask": input_ids != pad,
            "token_type_ids": torch.zeros_like(input_ids),
            "target_ids": torch.tensor(answers, dtype=torch.long),
        }


class SlotEmptyCollator(SlotSeq2SeqPredCollator):
    """`[BOS]` and nothing else."""

    def __call__(self, examples: list[BaseCollatorInput]) -> SlotBatch:
        rows = [[self.tokenizer.bos_token_id, *example["input_ids"]] for example in examples]
        input_ids = torch.tensor(rows, dtype=torch.long)
        ones = torch.ones_like(input_ids)
        return {"input_ids": input_ids, "attention_mask": ones.bool(), "token_type_ids": ones}


def print_batch_slotlm(batch: dict[str, Any], split: str, tokenizer: Tokenizer, dataloader_name: str) -> None:
    """Show the first row of a batch."""
    print(f"SLOTLM BATCH {split}/{dataloader_name}: {', '.join(sorted(batch))}")
    print(tokenizer.decode(batch["input_ids"][0]))
    if "slot_ids" in batch:
        missing = [int(token) for token in batch["slot_ids"][0] if token >= 0]
        print("missing:", tokenizer.convert_ids_to_tokens(missing))

"""`[pads] prompt BOS answer EOS [pads]`, or the prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tidy.types_tidy import TidyBatch
from xlm.data.collate import pad_ids, pad_prompt_and_answer
from xlm.datamodule import Collator, Tokenizer
from xlm.utils.rich_utils import print_batch

print_batch_tidy = print_batch


@dataclass
class TidyCollator(Collator):
    """Prompt and answer; the targets are the answer and its EOS."""

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None

    def __call__(self, examples: Sequence[Any]) -> TidyBatch:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        prompts = [list(example.get("prompt_ids") or []) for example in examples]
        answers = [[bos, *example["input_ids"], eos] for example in examples]
        padded, start = pad_prompt_and_answer(prompts, answers, self.tokenizer.pad_token_id)
        targets = torch.full_like(padded.ids, -100)
        targets[:, start:-1] = torch.where(padded.mask[:, start + 1 :], padded.ids[:, start + 1 :], -100)
        return {"input_ids": padded.ids, "attention_mask": padded.mask, "target_ids": targets}


@dataclass
class TidyPredCollator(TidyCollator):
    """The prompt and BOS; the true answer apart."""

    def __call__(self, examples: Sequence[Any]) -> TidyBatch:
        bos, eos, pad = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        prompts = [[*(example.get("prompt_ids") or []), bos] for example in examples]
        padded = pad_ids(prompts, pad, side="left")
        truth = pad_ids([[*example["input_ids"], eos] for example in examples], pad).ids
        return {"input_ids": padded.ids, "attention_mask": padded.mask, "target_ids": truth}

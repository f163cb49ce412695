"""Answers longer than a block: one block after another, each starting from the end of the last."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xlm.decoding.counter_rng import derive
from xlm.decoding.trace import recording
from xlm.errors import ConfigError
from xlm.masked.collate import MaskedPredictionBatch
from xlm.masked.predictor import MaskedPredictionDict
from xlm.protocols import Tokenizer
from xlm.utils.text import remove_trailing_pads

# (batch, seeds, whether EOS may be produced) → the block filled
PredictBlock = Callable[[MaskedPredictionBatch, Tensor, bool], MaskedPredictionDict]


def extended(
    predict_block: PredictBlock,
    batch: MaskedPredictionBatch,
    seeds: Tensor,
    max_length: int,
    context: int | None,
    tokenizer: Tokenizer,
) -> MaskedPredictionDict:
    """Answers of up to `max_length` tokens (semi-autoregressive extension, arXiv 2406.07524, section 5).

    The batch is prompts and a block of masks. Each further block is the prompt, the last `context` tokens (None: half a
    block) and masks. EOS may end a text in the last block only: a network that learnt from texts of at most a block
    would put one at the end of each. A row's calls add up; `order` counts on through its blocks.
    """
    start = batch["output_start_idx"]
    block = batch["input_ids"].shape[1] - start
    keep = block // 2 if context is None else context
    if not 0 <= keep < block:
        raise ConfigError(f"predictor.context is {keep}, and must lie in 0 … {block - 1}, below the block's masks.")
    if bool((batch["input_ids"][:, start:] != tokenizer.mask_token_id).any()):
        raise ConfigError("predictor.max_length is for blocks of masks behind a prompt, not for masks within a text.")
    num_blocks = 1 + max(0, -((block - max_length) // (block - keep)))
    whole = _Answers(batch["input_ids"], batch["attention_mask"].bool(), start, block, keep, num_blocks, tokenizer)
    rows = torch.arange(len(seeds), device=seeds.device)
    trace = recording()
    for number in range(num_blocks):
        if number and trace is not None:
            trace.new_block(rows, start, number * (block - keep), block, keep, tokenizer.mask_token_id)
        block_seeds = derive(seeds, number) if number else seeds
        whole.put(number, predict_block(whole.block(number), block_seeds, number == num_blocks - 1))
    if trace is not None:
        trace.shortened(max_length)
    return whole.prediction(max_length)


class _Answers:
    """The growing rows: prompt, then all blocks, masks where nothing has been filled yet."""

    def __init__(
        self, ids: Tensor, mask: Tensor, start: int, block: int, keep: int, num_blocks: int, tokenizer: Tokenizer
    ) -> None:
        self.start, self.block_size, self.keep, self.tokenizer = start, block, keep, tokenizer
        total = start + block + (num_blocks - 1) * (block - keep)
        self.prompt, self.prompt_mask = ids[:, :start], mask[:, :start]
        self.ids = ids.new_full((len(ids), total), tokenizer.pad_token_id)
        self.ids[:, :start] = self.prompt
        self.mask = torch.zeros_like(self.ids, dtype=torch.bool)
        self.mask[:, :start] = self.prompt_mask
        self.order = torch.full_like(self.ids, -1)
        self.calls = ids.new_zeros(len(ids))

    def _first(self, number: int) -> int:
        return self.start + number * (self.block_size - self.keep)

    def block(self, number: int) -> MaskedPredictionBatch:
        """What the network is asked for: prompt, context, masks."""
        masks = self.ids.new_full((len(self.ids), self.block_size), self.tokenizer.mask_token_id)
        if number:
            first = self._first(number)
            masks[:, : self.keep] = self.ids[:, first : first + self.keep]
        ids = torch.cat([self.prompt, masks], dim=1)
        mask = torch.cat([self.prompt_mask, torch.ones_like(masks, dtype=torch.bool)], dim=1)
        return {"input_ids": ids, "attention_mask": mask, "output_start_idx": self.start}

    def put(self, number: int, preds: MaskedPredictionDict) -> None:
        """Enter a filled block."""
        skip = self.keep if number else 0
        columns = slice(self._first(number) + skip, self._first(number) + self.block_size)
        inside = slice(self.start + skip, None)
        self.ids[:, columns] = preds["ids"][:, inside]
        self.mask[:, columns] = preds["attention_mask"][:, inside]
        order = preds["order"][:, inside]
        self.order[:, columns] = torch.where(order >= 0, order + self.calls[:, None], -1)
        self.calls += preds["network_calls"]

    def prediction(self, max_length: int) -> MaskedPredictionDict:
        """All rows, no wider than asked for."""
        end = self.start + max_length
        ids = self.ids[:, :end]
        texts = self.tokenizer.batch_decode(ids[:, self.start :].tolist())
        return {
            "ids": ids,
            "attention_mask": self.mask[:, :end],
            "text": [remove_trailing_pads(text, self.tokenizer) for text in texts],
            "output_start_idx": self.start,
            "steps_taken": self.calls,
            "network_calls": self.calls,
            "order": self.order[:, :end],
        }

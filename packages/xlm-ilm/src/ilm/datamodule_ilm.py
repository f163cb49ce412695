"""Collators of the insertion model: training on text or on prompt and answer, rows to continue, gaps to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ilm.corruption_ilm import Corrupted, corrupt
from ilm.types_ilm import CLS_TYPE, PROMPT_TYPE, REST_TYPE, ILMBatch, ILMPredictionBatch, ILMRows
from xlm.data.collate import (
    FlatIds,
    Limit,
    PadTo,
    Truncate,
    flat_ids,
    limits,
    noise_seeds,
    pad_flat,
    pad_ids,
    room,
    seed_and_truth,
    seq2seq_limits,
    time_quantiles,
    truncate_ids,
)
from xlm.data.tokenizers import check_mask_token
from xlm.datamodule import (
    BaseCollatorInput,
    Collator,
    Seq2SeqCollator,
    Seq2SeqCollatorInput,
    Seq2SeqCollatorPrediction,
    Tokenizer,
)
from xlm.utils.rich_utils import print_batch


def rows_of(prompts: Sequence[Sequence[int]], rest: FlatIds, tokenizer: Any, **width: Any) -> ILMRows:
    """`[pads] [CLS] prompt [BOS] rest [pads]`: every gap from BOS on is open.

    Args:
        prompts, rest: of equal number.
        width: `prompt_length` and `rest_length`, without CLS and BOS; None for the longest of the batch.
    """
    pad, cls, bos = tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.bos_token_id
    prompt_length, rest_length = width.get("prompt_length"), width.get("rest_length")
    left = pad_ids(
        [[cls, *ids] for ids in prompts], pad, length=None if prompt_length is None else prompt_length + 1, side="left"
    )
    right = pad_flat(rest, pad, length=rest_length)
    start = torch.full((len(prompts), 1), bos)
    ids = torch.cat([left.ids, start, right.ids], dim=1)
    mask = torch.cat([left.mask, torch.ones_like(start, dtype=torch.bool), right.mask], dim=1)
    P = left.ids.shape[1]
    cls_position = P - left.mask.sum(dim=1)
    types = torch.full_like(ids, REST_TYPE)
    types[:, :P] = PROMPT_TYPE
    types.scatter_(1, cls_position[:, None], CLS_TYPE)
    constraint = ~mask
    constraint[:, :P] = True
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "constraint": constraint,
        "cls_position": cls_position,
    }


def training_batch(
    rows: ILMRows,
    corrupted: Corrupted,
    seeds: Tensor,
    *,
    pad_token_id: int,
    width: int | None = None,
) -> ILMBatch:
    """Rows made of what was kept of the sequences, with what is missing as lists of hits.

    width: of the hits and the whole sequences; None for as much as needed.
    """
    M = int(corrupted.hits_per_row.max(initial=0)) if width is None else width
    filled = np.arange(M) < corrupted.hits_per_row[:, None]
    bos = bos_column(rows)

    def per_row(values: Any) -> Tensor:
        table = np.zeros(filled.shape, dtype=np.int64)
        table[filled] = values
        return torch.from_numpy(table)

    return {
        **rows,
        "target_slots": per_row(corrupted.gaps + bos),
        "target_tokens": per_row(corrupted.tokens),
        "target_counts": per_row(corrupted.counts),
        "n_drops": torch.from_numpy(corrupted.num_dropped),
        "num_tokens": torch.from_numpy(corrupted.clean.lengths + 1),
        "clean_ids": pad_flat(corrupted.clean, pad_token_id, length=width).ids,
        "noise_seed": seeds,
        # Found here, on the CPU and in a worker: on a GPU it would make every step wait.
        "slot_index": torch.from_numpy(np.flatnonzero(~rows["constraint"].numpy())),
    }


def bos_column(rows: ILMRows) -> int:
    """Where BOS stands: `rows_of` puts it into the same column of every row."""
    return int((rows["token_type_ids"][:1] != REST_TYPE).sum())


@dataclass
class ILMCollator(Collator):
    """`[CLS] [BOS] what is kept`, padded on the right; the missing tokens are targets of their gaps.

    Args:
        tokenizer: gives CLS, BOS and the pad id.
        block_size: most columns of a row, CLS and BOS included; None for no limit.
        noise_schedule, input_block_size: part of every collator's arguments, unused here.
        low_variance: how many tokens are deleted follows from the example's `time_quantile`, evenly spread over an
            epoch, where it has one; else from its seed.
        truncate: what a longer sequence loses before any token is deleted ("right": its end), or "error".
        pad_to: "longest" row of the batch, or always "block" (static shapes, for `compile=true`).
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    noise_schedule: Any = None
    input_block_size: int | None = None
    low_variance: bool = True
    truncate: Truncate = "right"
    pad_to: PadTo = "longest"

    def token_limits(self) -> dict[str, Limit]:
        return limits(text=room(self.block_size, 2), truncate=self.truncate)

    def __call__(self, examples: Sequence[BaseCollatorInput]) -> ILMBatch:
        limit = None if self.block_size is None else self.block_size - 2
        sequences = _cut([example["input_ids"] for example in examples], limit, self.truncate, "sequence")
        seeds = noise_seeds(examples)
        corrupted = corrupt(sequences, seeds, time_quantiles(examples) if self.low_variance else None)
        width = limit if self.pad_to == "block" else None
        rows = rows_of([[] for _ in examples], corrupted.kept, self.tokenizer, rest_length=width)
        pad = self.tokenizer.pad_token_id
        return training_batch(rows, corrupted, seeds, pad_token_id=pad, width=width)


def _cut(sequences: Sequence[Sequence[int]], limit: int | None, how: Truncate, name: str) -> Sequence[Sequence[int]]:
    return sequences if limit is None else [truncate_ids(ids, limit, how, name) for ids in sequences]


@dataclass
class ILMSeq2SeqCollator(Seq2SeqCollator):
    """`[pads] [CLS] prompt [BOS] what is kept of the answer [pads]`; nothing is deleted from prompts.

    Args:
        tokenizer: gives CLS, BOS and the pad id.
        block_size: most columns of BOS and answer together; None for no limit.
        input_block_size: most tokens of the prompt, CLS not counted.
        noise_schedule: part of every collator's arguments, unused here.
        low_variance: how many tokens are deleted follows from the example's `time_quantile`, evenly spread over an
            epoch, where it has one; else from its seed.
        prompt_truncate, answer_truncate: what a longer one loses, or "error".
        pad_to: "longest" row of the batch, or always "block" (static shapes, for `compile=true`).
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    low_variance: bool = True
    prompt_truncate: Truncate = "error"
    answer_truncate: Truncate = "error"
    pad_to: PadTo = "longest"

    def token_limits(self) -> dict[str, Limit]:
        return seq2seq_limits(self, num_special=1)

    def __call__(self, examples: Sequence[Seq2SeqCollatorInput]) -> ILMBatch:
        limit = None if self.block_size is None else self.block_size - 1
        prompts = [example["prompt_ids"] for example in examples]
        answers = _cut([example["input_ids"] for example in examples], limit, self.answer_truncate, "answer")
        seeds = noise_seeds(examples)
        corrupted = corrupt(answers, seeds, time_quantiles(examples) if self.low_variance else None)
        fixed = self.pad_to == "block"
        width = limit if fixed else None
        rows = rows_of(
            _cut(prompts, self.input_block_size, self.prompt_truncate, "prompt"),
            corrupted.kept,
            self.tokenizer,
            prompt_length=self.input_block_size if fixed else None,
            rest_length=width,
        )
        pad = self.tokenizer.pad_token_id
        return training_batch(rows, corrupted, seeds, pad_token_id=pad, width=width)


@dataclass
class ILMSeq2SeqPredCollator(Seq2SeqCollatorPrediction):
    """`[pads] [CLS] prompt [BOS]` to insert behind BOS, the true answer apart; without prompts `[CLS] [BOS]`.

    Args:
        tokenizer: gives CLS, BOS, EOS and the pad id.
        block_size: the length of answers is the predictor's affair; the truth is kept whole, because a cut truth
            would be scored as reached.
        input_block_size: most tokens of the prompt, CLS not counted.
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

    def __call__(self, examples: Sequence[dict[str, Any]]) -> ILMPredictionBatch:
        prompts: Sequence[Sequence[int]] = [example.get("prompt_ids") or [] for example in examples]
        prompts = _cut(prompts, self.input_block_size, self.prompt_truncate, "prompt")
        width = self.input_block_size if self.pad_to == "block" else None
        rows = rows_of(prompts, flat_ids([[] for _ in examples]), self.tokenizer, prompt_length=width)
        return {**rows, **seed_and_truth(examples, self.tokenizer)}  # type: ignore[typeddict-item]


@dataclass
class ILMInfillCollator(Seq2SeqCollatorPrediction):
    """`[CLS] [BOS] the given tokens`, open only where the text has masks: a run of them is one slot of any length.

    The text is `prompt_ids`, or `input_ids` where there is none; with both, `input_ids` is the true whole text.

    Args:
        tokenizer: gives CLS, BOS, EOS, the mask and the pad id.
        block_size: most columns of a row before anything is inserted, CLS and BOS included; None for no limit.
        input_block_size, noise_schedule: part of every collator's arguments, unused here.
        truncate: "right", where a longer text loses its end, or "error".
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    truncate: Literal["right", "error"] = "error"

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=room(self.block_size, 2), prompt_truncate=self.truncate, setting="block_size")

    def __call__(self, examples: Sequence[dict[str, Any]]) -> ILMPredictionBatch:
        mask_id = self.tokenizer.mask_token_id
        texts = [ex["input_ids"] if ex.get("prompt_ids") is None else ex["prompt_ids"] for ex in examples]
        limit = None if self.block_size is None else self.block_size - 2
        given = _cut([[t for t in text if t != mask_id] for text in texts], limit, self.truncate, "text")
        rows = rows_of([[] for _ in examples], flat_ids(given), self.tokenizer)
        rows["constraint"] |= ~self._slots(texts, rows["input_ids"].shape[1])
        return {**rows, **seed_and_truth(examples, self.tokenizer)}  # type: ignore[typeddict-item]

    def _slots(self, texts: Sequence[Sequence[int]], length: int) -> Tensor:
        """(B, L) True at the token left of a mask; BOS, in column 1, for masks at the start."""
        slots = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            is_mask = np.asarray(text, dtype=np.int64) == self.tokenizer.mask_token_id
            columns = 1 + (~is_mask).cumsum()[is_mask]
            slots[row, columns[columns < length]] = True
        return slots


def print_batch_ilm(batch: dict[str, Tensor], split: str, tokenizer: Tokenizer, dataloader_name: str) -> None:
    """Print the shapes and the first row of a batch: its tokens, and what is missing from which gap."""
    print_batch(batch, split, tokenizer, dataloader_name)
    if "target_counts" in batch:
        hits = zip(*(batch[f"target_{name}"][0].tolist() for name in ("slots", "tokens", "counts")), strict=True)
        print("  missing", ", ".join(f"{c}×{tokenizer.decode([t])} after column {s}" for s, t, c in hits if c))

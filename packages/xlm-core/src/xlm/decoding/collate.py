"""Batches of masked models: what is given and what may be masked, what was masked, blocks of masks to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.data.collate import Limit, Truncate, limits, pad_ids, pad_prompt_and_answer, room, truncate_ids
from xlm.data.tokenizers import check_mask_token
from xlm.decoding.masking import IGNORE, mask_tokens
from xlm.decoding.text_length import FILLED, TextLength, counted
from xlm.errors import ConfigError, DataError
from xlm.protocols import Tokenizer

PadTo = Literal["longest", "block"]


class CleanRows(NamedTuple):
    """Rows before masking.

    Args:
        maskable: positions that are noised.
        num_tokens: real tokens among them, EOS included: what a loss per token divides by. The filling of a block is
            learnt, but doesn't count.
        text_length: how the length of the text is known.
    """

    ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    maskable: Bool[Tensor, "batch length"]
    num_tokens: Integer[Tensor, " batch"]
    text_length: TextLength = "learnt"


class MaskedBatch(TypedDict):
    """What the loss of a masked model reads: rows with masks, and the tokens under them."""

    # Some tokens replaced by the mask.
    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # The token under each mask; -100 elsewhere.
    target_ids: Integer[Tensor, "batch length"]
    # Where target_ids is not -100, as indices into the flattened (B·L) positions.
    target_index: NotRequired[Integer[Tensor, " masks"]]
    # What could have been masked.
    maskable: Bool[Tensor, "batch length"]
    # From which follows with which probability a maskable token of the row was masked.
    t: Float[Tensor, " batch"]
    # Real tokens among the maskable ones: filling behind an answer is learnt, but not counted.
    num_tokens: Integer[Tensor, " batch"]
    # Each example's own random stream.
    noise_seed: Integer[Tensor, " batch"]
    # How the length of a text is known; "learnt" where it isn't said.
    text_length: NotRequired[TextLength]


class MaskedPredictionBatch(TypedDict):
    """What a predictor of masked models reads: rows with masks where tokens are wanted."""

    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # Column at which the answer starts; everything before it is the prompt.
    output_start_idx: int
    # True answer and EOS, right-padded with the pad token.
    target_ids: NotRequired[Integer[Tensor, "batch answer"]]
    # Each example's own random stream.
    noise_seed: NotRequired[Integer[Tensor, " batch"]]


def width(rows: Sequence[Sequence[int]], block_size: int | None, pad_to: PadTo) -> int | None:
    """Columns to pad to: the block, or the longest row where that is shorter; None for whatever is longest."""
    if block_size is None or pad_to == "block":
        return block_size
    return min(block_size, max(map(len, rows), default=0))


def filled(
    rows: Sequence[list[int]],
    text_length: TextLength,
    block_size: int | None,
    truncate: Truncate,
    tokenizer: Tokenizer,
    name: str = "answer",
) -> list[list[int]]:
    """The rows, where `text_length` asks for it exactly block_size long: cut, or filled on the right.

    Raises:
        ConfigError: there is no block to fill.
        DataError: a row is longer than the block, and `truncate` is "error".
    """
    if text_length not in FILLED:
        return list(rows)
    if block_size is None:
        raise ConfigError(
            f"text_length={text_length} needs block_size: filling rows to the longest of a batch would make an "
            "example's loss depend on its neighbours."
        )
    filler = tokenizer.eos_token_id if text_length == "learnt" else tokenizer.pad_token_id
    kept = [list(truncate_ids(row, block_size, truncate, name)) for row in rows]
    return [row + [filler] * (block_size - len(row)) for row in kept]


def answer_rows(
    examples: Sequence[Any],
    tokenizer: Tokenizer,
    *,
    with_prompt: bool,
    block_size: int | None,
    input_block_size: int | None = None,
    text_length: TextLength = "given",
    prompt_truncate: Truncate = "error",
    answer_truncate: Truncate = "error",
    pad_to: PadTo = "longest",
) -> CleanRows:
    """`[pads] prompt [BOS] answer [EOS] [rest]`, all after BOS maskable; without prompts the rows start at BOS.

    The rest of the block is EOS with `text_length` "learnt", padding that the network sees with "lm1b_protocol" (where
    BOS is maskable too), and otherwise padding that it doesn't see.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    prompts = [list(example["prompt_ids"]) if with_prompt else [] for example in examples]
    answers = [[bos, *example["input_ids"], eos] for example in examples]
    lengths = torch.tensor([len(answer) - 1 for answer in answers])
    answers = filled(answers, text_length, block_size, answer_truncate, tokenizer)
    padded, start = pad_prompt_and_answer(
        prompts,
        answers,
        tokenizer.pad_token_id,
        prompt_length=width(prompts, input_block_size, pad_to),
        answer_length=width(answers, block_size, pad_to),
        prompt_truncate=prompt_truncate,
        answer_truncate=answer_truncate,
    )
    maskable = padded.mask.clone()
    # BOS is given; where it was cut off (truncation on the left), the first token stands in its column.
    maskable[:, :start] = False
    if text_length == "lm1b_protocol":
        lengths += 1
    elif maskable.shape[1] > start:
        maskable[:, start] &= padded.ids[:, start] != bos
    return CleanRows(padded.ids, padded.mask, maskable, torch.minimum(lengths, maskable.sum(dim=1)), text_length)


def noise_seeds(examples: Sequence[Any]) -> Integer[Tensor, " batch"]:
    """Each example's `noise_seed`; DataError where an example has none."""
    if missing := [number for number, example in enumerate(examples) if "noise_seed" not in example]:
        raise DataError(
            f"Example {missing[0]} of a batch has no noise_seed, from which its masks would be drawn.\n"
            "The loaders of xlm.datamodule add it; a loader of your own has to as well."
        )
    return torch.tensor([example["noise_seed"] for example in examples], dtype=torch.int64)


def noise_levels(examples: Sequence[Any]) -> Float[Tensor, " batch"] | None:
    """Each example's `noise_level`, evenly spread over an epoch by the loaders; None where an example has none."""
    if not all("noise_level" in example for example in examples):
        return None
    return torch.tensor([example["noise_level"] for example in examples], dtype=torch.float64)


def masked_batch(
    rows: CleanRows,
    t: Float[Tensor, " batch"],
    rate: Float[Tensor, " batch"],
    seeds: Integer[Tensor, " batch"],
    mask_token_id: int,
) -> MaskedBatch:
    """The batch in which each maskable token of row b is masked with probability rate[b], that of its time t[b]."""
    masked = mask_tokens(rows.ids, rows.maskable, rate, seeds, mask_token_id, rows.attention_mask)
    targets, index = masked.targets, masked.target_index
    if rows.text_length == "lm1b_protocol":
        targets = targets.masked_fill(~counted(rows.maskable, rows.num_tokens), IGNORE)
        index = index[targets.reshape(-1)[index] != IGNORE]
    return {
        "input_ids": masked.ids,
        "attention_mask": rows.attention_mask,
        "target_ids": targets,
        # Found here, on the CPU and in a worker: on a GPU it would make every step wait.
        "target_index": index,
        "maskable": rows.maskable,
        "t": t.float(),
        "num_tokens": rows.num_tokens,
        "noise_seed": seeds,
        "text_length": rows.text_length,
    }


def _prediction_batch(
    ids: Tensor, mask: Tensor, start: int, examples: Sequence[Any], tokenizer: Tokenizer
) -> MaskedPredictionBatch:
    batch: MaskedPredictionBatch = {"input_ids": ids, "attention_mask": mask, "output_start_idx": start}
    # Unconditional examples have an empty input and no prompt: there is no truth.
    if examples and all("prompt_ids" in e and e.get("input_ids") is not None for e in examples):
        truth = [[*example["input_ids"], tokenizer.eos_token_id] for example in examples]
        batch["target_ids"] = pad_ids(truth, tokenizer.pad_token_id).ids
    if examples and all("noise_seed" in example for example in examples):
        batch["noise_seed"] = noise_seeds(examples)
    return batch


@dataclass
class MasksAfterPrompt:
    """`[pads] prompt [BOS] masks`: the whole block is masked, since nobody knows the answer's length.

    Without prompts (unconditional) the rows are BOS and masks. The true answer, if any, goes to `target_ids` alone.

    Args:
        tokenizer: gives BOS, EOS, the mask and the pad id.
        block_size: BOS and masks together, as in training.
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

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=self.input_block_size, prompt_truncate=self.prompt_truncate)

    def __call__(self, examples: Sequence[Any]) -> MaskedPredictionBatch:
        if self.block_size is None or self.block_size < 2:
            raise ConfigError(f"block_size is {self.block_size}; it must hold BOS and at least one mask.")
        prompts = [list(example.get("prompt_ids") or []) for example in examples]
        masks = [self.tokenizer.mask_token_id] * (self.block_size - 1)
        padded, start = pad_prompt_and_answer(
            prompts,
            [[self.tokenizer.bos_token_id, *masks] for _ in examples],
            self.tokenizer.pad_token_id,
            prompt_length=width(prompts, self.input_block_size, self.pad_to),
            prompt_truncate=self.prompt_truncate,
        )
        return _prediction_batch(padded.ids, padded.mask, start + 1, examples, self.tokenizer)


@dataclass
class MasksInPlace:
    """`[BOS] text with masks [EOS] [rest]`: each mask is a slot for one token (infilling at known length).

    The text is the example's `prompt_ids`; its `input_ids`, if any, is the truth without masks.

    Args:
        tokenizer: gives BOS, EOS and the pad id.
        block_size: most tokens of a row, BOS and EOS included; None for no limit.
        noise_schedule, input_block_size: part of every collator's arguments, unused here.
        truncate: what a longer row loses, or "error".
        pad_to: "longest" row of the batch, or always "block".
        text_length: as in training. The rest of the block is EOS with "learnt", padding that the network sees with
            "lm1b_protocol", else padding that it doesn't see.
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    truncate: Truncate = "error"
    pad_to: PadTo = "longest"
    text_length: TextLength = "given"

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=room(self.block_size, 2), prompt_truncate=self.truncate, setting="block_size")

    def __call__(self, examples: Sequence[Any]) -> MaskedPredictionBatch:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        texts = [[bos, *example["prompt_ids"], eos] for example in examples]
        rows = filled(texts, self.text_length, self.block_size, self.truncate, self.tokenizer, "text")
        length = width(rows, self.block_size, self.pad_to)
        padded = pad_ids(rows, self.tokenizer.pad_token_id, length=length, truncate=self.truncate)
        return _prediction_batch(padded.ids, padded.mask, 1, examples, self.tokenizer)

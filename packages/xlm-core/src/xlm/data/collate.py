"""Padding and truncation for all collators: ragged lists of ids in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.errors import DataError

Side = Literal["left", "right"]
# The end that is cut off from a sequence that is too long; "error" raises an error instead.
Truncate = Literal["left", "right", "error"]
PadTo = Literal["longest", "block"]
# The target of a position that no loss reads.
IGNORE = -100


# Not in xlm.protocols, which does not import torch: a model's batch type that extends it must resolve its annotations.
class BaseBatch(TypedDict):
    """The keys that every batch has; `attention_mask` is True for real tokens."""

    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]


class Limit(NamedTuple):
    """The most tokens of a column that a collator accepts, and what it does with longer ones.

    Args:
        truncate: the end that longer ones lose, or "error"; None if unknown.
        setting: the setting behind the limit, if not the usual `block_size` (texts) or `input_block_size` (prompts).
    """

    tokens: int
    truncate: Truncate | None
    setting: str = ""


def limits(
    *,
    text: int | None = None,
    prompt: int | None = None,
    truncate: Truncate = "error",
    prompt_truncate: Truncate = "error",
    setting: str = "",
) -> dict[str, Limit]:
    """The result of a collator's `token_limits()`, from the most tokens of a text and of a prompt (None: no limit)."""
    found = {"input_ids": (text, truncate), "prompt_ids": (prompt, prompt_truncate)}
    return {name: Limit(max(0, size), how, setting) for name, (size, how) in found.items() if size is not None}


def room(block_size: int | None, num_special: int) -> int | None:
    """The tokens left in a block after `num_special` special ones; None for no limit."""
    return None if block_size is None else block_size - num_special


def seq2seq_limits(collator: Any, num_special: int = 2) -> dict[str, Limit]:
    """`token_limits()` of a collator of prompts and answers, from the options that all of them have.

    num_special: tokens of a block that are none of the answer's.
    """
    return limits(
        text=room(collator.block_size, num_special),
        prompt=collator.input_block_size,
        truncate=collator.answer_truncate,
        prompt_truncate=collator.prompt_truncate,
    )


class Padded(NamedTuple):
    """The ids of one rectangular batch, and a mask of the real ones."""

    ids: Integer[Tensor, "batch length"]
    mask: Bool[Tensor, "batch length"]


def truncate_ids(ids: Sequence[int], max_length: int, truncate: Truncate, name: str = "sequence") -> Sequence[int]:
    """At most `max_length` of `ids`; with "error", longer ones raise `DataError`."""
    if len(ids) <= max_length:
        return ids
    if truncate == "error":
        raise DataError(
            f"The {name} of {len(ids)} tokens does not fit into {max_length}.\n"
            "Raise block_size or input_block_size, or choose a truncation ('left' or 'right')."
        )
    # Not ids[-max_length:], which is everything when max_length is 0.
    return ids[:max_length] if truncate == "right" else ids[len(ids) - max_length :]


def width(rows: Sequence[Sequence[int]], block_size: int | None, pad_to: PadTo) -> int | None:
    """Columns to pad to: the block, or the longest row where that is shorter; None for whatever is longest."""
    if block_size is None or pad_to == "block":
        return block_size
    return min(block_size, max(map(len, rows), default=0))


def pad_ids(
    sequences: Sequence[Sequence[int]],
    pad_token_id: int,
    *,
    length: int | None = None,
    side: Side = "right",
    truncate: Truncate = "error",
    name: str = "sequence",
) -> Padded:
    """Pad on `side` to `length`, or to the longest sequence when it is None; longer ones follow `truncate`."""
    if length is not None:
        sequences = [truncate_ids(ids, length, truncate, name) for ids in sequences]
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    width = length if length is not None else int(lengths.max(initial=0))
    positions = np.arange(width)
    lengths = lengths[:, None]
    mask = positions < lengths if side == "right" else positions >= width - lengths
    ids = np.full((len(sequences), width), pad_token_id, dtype=np.int64)
    # Row-major order of the mask is the order of the concatenated sequences, on either side.
    ids[mask] = np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(lengths.sum()))
    return Padded(torch.from_numpy(ids), torch.from_numpy(mask))


def pad_prompt_and_answer(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    pad_token_id: int,
    *,
    prompt_length: int | None = None,
    answer_length: int | None = None,
    prompt_truncate: Truncate = "error",
    answer_truncate: Truncate = "error",
) -> tuple[Padded, int]:
    """Left-padded prompts followed by right-padded answers, and the column where answers start.

    Special tokens are up to the caller: an answer already has those that it begins or ends with.
    """
    left = pad_ids(prompts, pad_token_id, length=prompt_length, side="left", truncate=prompt_truncate, name="prompt")
    right = pad_ids(answers, pad_token_id, length=answer_length, truncate=answer_truncate, name="answer")
    both = Padded(torch.cat([left.ids, right.ids], dim=1), torch.cat([left.mask, right.mask], dim=1))
    return both, left.ids.shape[1]


def noise_seeds(examples: Sequence[Any]) -> Integer[Tensor, " batch"]:
    """Each example's `noise_seed`; DataError where an example has none."""
    if missing := [number for number, example in enumerate(examples) if "noise_seed" not in example]:
        raise DataError(
            f"Example {missing[0]} of a batch has no noise_seed, from which its masks would be drawn.\n"
            "The loaders of xlm.datamodule add it; a loader of your own has to as well."
        )
    return torch.tensor([example["noise_seed"] for example in examples], dtype=torch.int64)


def time_quantiles(examples: Sequence[Any]) -> Float[Tensor, " batch"] | None:
    """Each example's `time_quantile`, evenly spread over an epoch by the loaders; None where an example has none."""
    if not all("time_quantile" in example for example in examples):
        return None
    return torch.tensor([example["time_quantile"] for example in examples], dtype=torch.float64)


def seed_and_truth(examples: Sequence[dict[str, Any]], tokenizer: Any) -> dict[str, Tensor]:
    """`noise_seed` and `target_ids` of a prediction batch, each where all examples have it.

    Without `prompt_ids` there is no truth: unconditional examples have an empty `input_ids`, texts to fill a given one.
    """
    found: dict[str, Tensor] = {}
    if examples and all("noise_seed" in example for example in examples):
        found["noise_seed"] = noise_seeds(examples)
    if examples and all(
        example.get("prompt_ids") is not None and example.get("input_ids") is not None for example in examples
    ):
        truth = [[*example["input_ids"], tokenizer.eos_token_id] for example in examples]
        found["target_ids"] = pad_ids(truth, tokenizer.pad_token_id).ids
    return found

"""Padding and truncation for all collators: ragged lists of ids in, tensors out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.errors import DataError

Ints = npt.NDArray[np.int64]
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
    if length is not None and max(map(len, sequences), default=0) > length:
        sequences = [truncate_ids(ids, length, truncate, name) for ids in sequences]
    return pad_flat(flat_ids(sequences), pad_token_id, length=length, side=side)


class FlatIds(NamedTuple):
    """The ids of several rows, one row after the other, and the rows' lengths."""

    ids: Ints
    lengths: Ints


def flat_ids(sequences: Sequence[Sequence[int]]) -> FlatIds:
    """Lists of ids as two arrays."""
    flat: list[int] = []
    for ids in sequences:
        flat += ids
    # Half the time of np.array or np.fromiter, and most of what a collator costs.
    packed = struct.pack(f"{len(flat)}q", *flat)
    return FlatIds(np.frombuffer(packed, dtype=np.int64), np.array(list(map(len, sequences)), dtype=np.int64))


def pad_flat(rows: FlatIds, pad_token_id: int, *, length: int | None = None, side: Side = "right") -> Padded:
    """`pad_ids` of rows that are arrays already, of which none is longer than `length`."""
    width = length if length is not None else int(rows.lengths.max(initial=0))
    positions, lengths = np.arange(width), rows.lengths[:, None]
    mask = positions < lengths if side == "right" else positions >= width - lengths
    ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    # Row-major order of the mask is the order of the concatenated sequences, on either side.
    ids[mask] = rows.ids
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
    return beside(left, right)


def beside(left: Padded, right: Padded) -> tuple[Padded, int]:
    """One rectangle out of two, and the column where the right one starts."""
    start = left.ids.shape[1]
    if not start:
        return right, 0
    return Padded(torch.cat([left.ids, right.ids], dim=1), torch.cat([left.mask, right.mask], dim=1)), start


def noise_seeds(examples: Sequence[Any]) -> Integer[Tensor, " batch"]:
    """Each example's `noise_seed`; DataError where an example has none."""
    seeds = [example.get("noise_seed") for example in examples]
    if None in seeds:
        raise DataError(
            f"Example {seeds.index(None)} of a batch has no noise_seed, from which its masks would be drawn.\n"
            "The loaders of xlm.datamodule add it; a loader of your own has to as well."
        )
    return torch.from_numpy(np.array(seeds, dtype=np.int64))


def time_quantiles(examples: Sequence[Any]) -> Float[Tensor, " batch"] | None:
    """Each example's `time_quantile`, evenly spread over an epoch by the loaders; None where an example has none."""
    quantiles = [example.get("time_quantile") for example in examples]
    return None if None in quantiles else torch.from_numpy(np.array(quantiles, dtype=np.float64))


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

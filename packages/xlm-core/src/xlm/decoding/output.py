"""What a predictor of masked models hands back: answers cut at EOS, text, rows for a file, prompts as strings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from xlm.decoding.collate import MaskedPredictionBatch, MasksAfterPrompt, MasksInPlace
from xlm.decoding.fill import Filled, Slots
from xlm.decoding.streams import prompt_seeds
from xlm.decoding.text_length import FILLED, TextLength
from xlm.decoding.trace import recording
from xlm.decoding.writing import writing
from xlm.errors import ConfigError
from xlm.protocols import Tokenizer
from xlm.utils.text import remove_trailing_pads

# A place that waits for its token, where the writing of a text is shown.
MASKED = "▁"


class MaskedPredictionDict(TypedDict):
    """`ids[:, output_start_idx:]` are answers with their EOS, then pads.

    `order`: the row's own network call (from 0) that filled a position, -1 where nothing was filled.
    """

    ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    text: list[str]
    output_start_idx: int
    steps_taken: Integer[Tensor, " batch"]
    network_calls: Integer[Tensor, " batch"]
    order: Integer[Tensor, "batch length"]


def suppressed_ids(tokenizer: Tokenizer, suppressed_tokens: Iterable[str] = ()) -> list[int]:
    """Ids that never belong into an answer: mask, pad, BOS, CLS and SEP (unless one of them is EOS), and those named.

    ConfigError for a name that the tokenizer doesn't know.
    """
    names = ("mask", "pad", "bos", "cls", "sep")
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    special: set[int] = {number for number in ids if number is not None} - {tokenizer.eos_token_id}
    for token in suppressed_tokens:
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or tokenizer.convert_ids_to_tokens(number) != token:
            raise ConfigError(f"predictor.suppressed_tokens names {token!r}, which the tokenizer doesn't know.")
        special.add(number)
    return sorted(special)


def slots_of(batch: MaskedPredictionBatch, mask_token_id: int) -> Slots:
    """Every mask of a batch is a slot."""
    mask = batch["attention_mask"].bool()
    return Slots.of((batch["input_ids"] == mask_token_id) & mask, mask)


def finished(batch: MaskedPredictionBatch, slots: Slots, filled: Filled, tokenizer: Tokenizer) -> MaskedPredictionDict:
    """The prediction of a filled batch: whatever was filled behind an answer's first EOS becomes padding."""
    start = batch["output_start_idx"]
    ends = slots.masked & (filled.ids == tokenizer.eos_token_id)
    behind = slots.masked & (ends.long().cumsum(dim=1) - ends.long() > 0)
    behind |= _filling(filled.ids, batch["attention_mask"].bool(), start, tokenizer) & ~slots.masked
    if (trace := recording()) is not None:
        trace.removed(behind)
    ids = filled.ids.masked_fill(behind, tokenizer.pad_token_id)
    texts = tokenizer.batch_decode(ids[:, start:].tolist())
    return {
        "ids": ids,
        "attention_mask": batch["attention_mask"].bool() & ~behind,
        "text": [remove_trailing_pads(text, tokenizer) for text in texts],
        "output_start_idx": start,
        "steps_taken": filled.network_calls,
        "network_calls": filled.network_calls,
        "order": filled.order.masked_fill(behind, -1),
    }


def _filling(ids: Tensor, mask: Tensor, start: int, tokenizer: Tokenizer) -> Tensor:
    """Of the EOS and padding in which a row ends, all but the first: what a block was filled with."""
    is_end = (ids == tokenizer.eos_token_id) | (ids == tokenizer.pad_token_id)
    more = (mask & ~is_end).flip(1).long().cumsum(dim=1).flip(1)  # other tokens from here on
    trailing = mask & is_end & (more == 0)
    trailing[:, :start] = False
    return trailing & (trailing.long().cumsum(dim=1) > 1)


def as_rows(batch: MaskedPredictionBatch, preds: MaskedPredictionDict, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """JSON-able rows of prompt, prediction, steps taken, network calls, the order of writing, and truth if any."""
    start = preds["output_start_idx"]

    def decode(rows: Tensor) -> list[str]:
        return tokenizer.batch_decode(rows.tolist(), skip_special_tokens=True)

    # A prompt with slots in it is shown whole, as it was given.
    in_place = start == 1 and bool((batch["input_ids"][:, 1:] != tokenizer.mask_token_id).any())
    prompts = _with_masks(batch, tokenizer) if in_place else decode(batch["input_ids"][:, :start])
    predictions = decode(preds["ids"][:, start:])
    calls = preds["network_calls"].tolist()
    answers, orders = preds["ids"][:, start:].tolist(), preds["order"][:, start:].tolist()
    rows: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "prediction": prediction,
            "steps_taken": n,
            "network_calls": n,
            "writing": writing(ids, order, tokenizer, gap=MASKED),
        }
        for prompt, prediction, n, ids, order in zip(prompts, predictions, calls, answers, orders, strict=True)
    ]
    truth = batch.get("target_ids")
    if truth is not None:
        for row, text in zip(rows, decode(truth), strict=True):
            row["truth"] = text
    return rows


def _with_masks(batch: MaskedPredictionBatch, tokenizer: Tokenizer) -> list[str]:
    """The given rows between BOS and EOS, as text that shows the masks."""
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    shown = mask & ~_filling(ids, mask, 1, tokenizer)
    return [tokenizer.decode(row[keep][1:-1].tolist()) for row, keep in zip(ids, shown, strict=True)]


def generate(
    predict: Callable[[MaskedPredictionBatch], Mapping[str, Any]],
    tokenizer: Any,
    prompts: list[str],
    block_size: int | None,
    seed: int | None,
    device: torch.device,
    text_length: TextLength = "given",
) -> list[str]:
    """Text for each prompt: its masks filled in place where it has some, else an answer of at most a block.

    The n-th prompt draws from the stream of (seed, n); without a seed, from torch's global generator.
    """
    examples = [
        {"prompt_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"], "noise_seed": own}
        for prompt, own in zip(prompts, prompt_seeds(len(prompts), seed), strict=True)
    ]
    # A text that is longer than a block has none to be filled: BOS and EOS go around it.
    most = -1 if block_size is None or text_length not in FILLED else block_size - 2
    kinds = [
        "after"
        if tokenizer.mask_token_id not in (ids := example["prompt_ids"])
        else "in"
        if len(ids) <= most
        else "long"
        for example in examples
    ]
    texts = [""] * len(prompts)
    asked: list[int] = []
    collators: dict[str, MasksInPlace | MasksAfterPrompt] = {
        "in": MasksInPlace(tokenizer, block_size, text_length=text_length),
        "long": MasksInPlace(tokenizer),
        "after": MasksAfterPrompt(tokenizer, block_size),
    }
    for kind, collate in collators.items():
        chosen = [n for n, found in enumerate(kinds) if found == kind]
        if not chosen:
            continue
        asked += chosen
        batch: Any = collate([examples[n] for n in chosen])
        batch = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}
        preds = predict(batch)
        answers = preds["ids"][:, preds["output_start_idx"] :].tolist()
        for n, text in zip(chosen, tokenizer.batch_decode(answers, skip_special_tokens=True), strict=True):
            texts[n] = text
    if (trace := recording()) is not None:
        trace.reorder(asked)
    return texts


def continue_text(
    predict: Callable[[MaskedPredictionBatch], Mapping[str, Any]],
    tokenizer: Any,
    prompts: list[str],
    block_size: int | None,
    seed: int | None,
    device: torch.device,
) -> list[str]:
    """What follows the beginnings of texts, for a model that learnt whole texts: `[BOS] prompt masks`, a block long.

    Draws as `generate` does. ConfigError for a prompt that fills the block.
    """
    rows = [[tokenizer.bos_token_id, *tokenizer(p, add_special_tokens=False)["input_ids"]] for p in prompts]
    if not rows:
        return []
    longest = max(map(len, rows))
    if block_size is None or longest >= block_size:
        raise ConfigError(f"A prompt of {longest - 1} tokens leaves no room in a block of {block_size}, BOS included.")
    ids = [row + [tokenizer.mask_token_id] * (block_size - len(row)) for row in rows]
    batch: MaskedPredictionBatch = {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.ones(len(ids), block_size, dtype=torch.bool, device=device),
        "output_start_idx": 1,
        "noise_seed": torch.tensor(prompt_seeds(len(ids), seed), device=device),
    }
    filled = predict(batch)["ids"].tolist()
    return [
        str(tokenizer.decode(answer[len(row) :], skip_special_tokens=True))
        for row, answer in zip(rows, filled, strict=True)
    ]

"""Prompts as strings: batches of those of a kind, what the predictor writes, and its texts in the prompts' order."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xlm.decoding.counter_rng import prompt_seeds
from xlm.decoding.trace import recording


def prompt_examples(
    prompts: Sequence[str], tokenizer: Any, seed: int | None, seeds: Iterable[int] | None = None
) -> list[dict[str, Any]]:
    """An example for each prompt.

    The n-th draws from the stream of (seed, n), or from its own of `seeds`; without either, from torch's global
    generator.
    """
    return [
        {"prompt_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"], "noise_seed": own}
        for prompt, own in zip(prompts, seeds or prompt_seeds(len(prompts), seed), strict=True)
    ]


def device_of(predictor: Any) -> torch.device:
    """Where the predictor's network is."""
    device: torch.device = next(predictor.model.parameters()).device
    return device


def answers(
    predictor: Any,
    examples: Sequence[dict[str, Any]],
    collators: Mapping[Any, Callable[[list[dict[str, Any]]], Any]],
    kinds: Sequence[Hashable],
) -> list[str]:
    """What a predictor writes for each example, without special tokens; examples of a kind go in one batch.

    Args:
        collators: by kind.
        kinds: of the examples.
    """
    texts = [""] * len(examples)
    asked: list[int] = []
    device = device_of(predictor)
    for kind, collate in collators.items():
        chosen = [n for n, found in enumerate(kinds) if found == kind]
        if chosen:
            asked += chosen
            batch = collate([examples[n] for n in chosen])
            batch = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}
            for n, row in zip(chosen, predictor.to_dict(batch, predictor.predict(batch)), strict=True):
                texts[n] = row["prediction"]
    if (trace := recording()) is not None:
        trace.reorder(asked)
    return texts

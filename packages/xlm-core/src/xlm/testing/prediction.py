"""Runs a predictor within bounds, and reads what it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from xlm.testing.properties import TooManyCalls

# Limits that predictors take: tokens of an answer, or steps.
TOKENS = ("max_length", "max_new_tokens")
STEPS = ("max_steps", "num_steps")
COUNTS = (*TOKENS, *STEPS)


@contextmanager
def bounded_calls(limit: int) -> Iterator[None]:
    """Raise TooManyCalls when one module with weights of its own runs more than `limit` times."""
    calls: dict[int, int] = {}

    def count(module: nn.Module, _: Any) -> None:
        if module._parameters:
            calls[id(module)] = calls.get(id(module), 0) + 1
            if calls[id(module)] > limit:
                raise TooManyCalls(f"{type(module).__name__} ran more than {limit} times in one call of predict.")

    handle = register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def call_limit(cfg: DictConfig) -> int:
    """More network calls than any sensible predictor makes with these lengths and steps in its configuration."""
    plain = OmegaConf.to_container(cfg.predictor, resolve=True) if cfg.get("predictor") else {}
    assert isinstance(plain, dict)
    sizes = [*(plain.get(name) for name in COUNTS), cfg.get("block_size"), cfg.get("input_block_size")]
    return 100 + 4 * sum(size for size in sizes if isinstance(size, int))


def token_rows(predictions: Mapping[str, Any], pad_token_id: int) -> list[list[int]]:
    """The predicted rows without pads."""
    rows: list[list[int]] = predictions["ids"].tolist()
    return [[token for token in row if token != pad_token_id] for row in rows]


def is_part(given: list[int], row: list[int]) -> bool:
    """Whether a run of tokens is in a row as it is."""
    return any(row[start : start + len(given)] == given for start in range(len(row) - len(given) + 1))


def is_subsequence(given: list[int], row: list[int]) -> bool:
    """Whether the tokens are in a row, in order, whatever is between them."""
    rest = iter(row)
    return all(token in rest for token in given)

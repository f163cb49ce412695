"""Components are called with the arguments that their signatures accept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from xlm.protocols import LossFunction, call_at, call_loss

PLACE = (3, 1, "lm")


def whole(batch: Any, batch_idx: Any = None, dataloader_idx: Any = None, dataloader_name: Any = None) -> Any:
    return batch, batch_idx, dataloader_idx, dataloader_name


def other_names(b: Any, i: Any, j: Any, name: Any) -> Any:
    return b, i, j, name


def last_name_of_its_own(batch: Any, batch_idx: Any = None, dataloader_idx: Any = None, name: Any = None) -> Any:
    return batch, batch_idx, dataloader_idx, name


def options_alone(batch: Any, temperature: float = 0.5, top_p: float = 0.9, top_k: int = 3) -> Any:
    return batch, temperature, top_p, top_k


def option_behind(batch: Any, temperature: float = 0.5) -> Any:
    return batch, temperature


def option_between(batch: Any, batch_idx: int, scale: float = 2.0, *, dataloader_name: str) -> Any:
    return batch, batch_idx, scale, dataloader_name


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda batch: batch, "B"),
        (lambda batch, *args: (batch, args), ("B", PLACE)),
        (lambda batch, **named: (batch, named), ("B", {"batch_idx": 3, "dataloader_idx": 1, "dataloader_name": "lm"})),
        (whole, ("B", *PLACE)),
        (functools.partial(whole), ("B", *PLACE)),
        (functools.partial(whole, dataloader_name="x"), ("B", 3, 1, "lm")),
        (other_names, ("B", *PLACE)),
        (lambda batch, dataloader_name: (batch, dataloader_name), ("B", "lm")),
        (lambda batch, batch_idx: (batch, batch_idx), ("B", 3)),
        (last_name_of_its_own, ("B", *PLACE)),
        (options_alone, ("B", 0.5, 0.9, 3)),
        (option_behind, ("B", 0.5)),
        (option_between, ("B", 3, 2.0, "lm")),
        (torch.compile(whole, backend="eager"), ("B", *PLACE)),
    ],
)  # fmt: skip
def test_a_function_gets_those_arguments_that_it_takes(function: Callable[..., Any], result: Any) -> None:
    assert call_at(function, "B", *PLACE) == result


class ByLossFn(nn.Module, LossFunction[Any, Any]):
    """Calling a Module calls `forward`, which this one doesn't have."""

    def loss_fn(self, batch: Any) -> Any:
        return ("loss_fn", batch)


class ByForward(ByLossFn):
    def forward(self, batch: Any, batch_idx: int) -> Any:
        return ("forward", batch, batch_idx)


class Bare:
    def loss_fn(self, batch: Any, dataloader_name: str) -> Any:
        return ("bare", batch, dataloader_name)


class Standard(LossFunction[Any, Any]):
    def loss_fn(self, batch: Any) -> Any:
        return ("standard", batch)


@pytest.mark.parametrize(
    ("loss", "result"),
    [
        (ByLossFn(), ("loss_fn", 1)),
        (ByForward(), ("forward", 1, 3)),
        (Bare(), ("bare", 1, "lm")),
        (Standard(), ("standard", 1)),
    ],
)  # fmt: skip
def test_a_loss_is_reached_however_it_is_written(loss: Any, result: Any) -> None:
    assert call_loss(loss, 1, *PLACE) == result

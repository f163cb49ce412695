"""Values against declared types: what matches, what is missing, what is undeclared."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

import pytest
import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from xlm.harness import LossFunction, Predictor
from xlm.testing import mismatches
from xlm.testing.compare import declared_output, declared_parameters, holds


class Inner(TypedDict):
    n: int


class Batch(TypedDict):
    ids: Integer[Tensor, "batch length"]
    mask: Bool[Tensor, "batch length"]
    rows: NotRequired[list[str]]


IDS = torch.zeros(2, 3, dtype=torch.long)
GOOD: dict[str, Any] = {"ids": IDS, "mask": IDS.bool()}


def test_a_batch_as_declared() -> None:
    assert mismatches(Batch, GOOD) == []
    assert mismatches(Batch, {**GOOD, "rows": ["a", "b"]}) == []


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"ids": IDS}, ["missing mask"]),
        ({**GOOD, "note": 1}, ["undeclared note"]),
        ({**GOOD, "mask": IDS}, ["mask is int64 (2, 3), not Bool[Tensor, 'batch length']"]),
        ({**GOOD, "mask": IDS.bool()[:, :2]}, ["mask is bool (2, 2), not Bool[Tensor, 'batch length']"]),
        ({**GOOD, "rows": [1]}, ["rows is list [1], not list[str]"]),
        ([1], ["a list instead of a dict"]),
    ],
)
def test_what_differs_is_named(batch: Any, said: list[str]) -> None:
    assert mismatches(Batch, batch) == said


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (Any, object(), True),
        (int | Tensor, 3, True),
        (int | Tensor, "a", False),
        (int | None, None, True),
        (Literal["a", "b"], "c", False),
        (dict[str, int], {"a": 1}, True),
        (dict[str, int], {"a": "b"}, False),
        (tuple[int, ...], (1, 2), True),
        (list[Inner], [{"n": 1}], True),
        (list[Inner], [{"m": 1}], False),
        (None, None, True),
        (list, (), False),
    ],
)
def test_annotations_of_many_kinds(hint: Any, value: Any, expected: bool) -> None:
    assert holds(hint, value) == expected


class Declares(LossFunction[Batch, Inner]):
    pass


class DeclaresNothing(Predictor[Any, dict[str, Any]]):
    pass


class Inherits(Declares):
    pass


class Collates:
    def __call__(self, examples: list[Any]) -> Batch:
        raise NotImplementedError


class Unresolvable:
    def __call__(self, examples: list[Any]) -> Absent:  # type: ignore[name-defined]
        raise NotImplementedError


def test_what_components_declare() -> None:
    assert declared_parameters(Declares()) == (Batch, Inner)
    assert declared_parameters(Inherits()) == (Batch, Inner)
    assert declared_parameters(DeclaresNothing()) == (None, None)
    assert declared_parameters(object()) == (None, None)
    assert declared_output(Collates()) is Batch
    assert declared_output(Unresolvable()) is None
    assert declared_output(lambda examples: examples) is None

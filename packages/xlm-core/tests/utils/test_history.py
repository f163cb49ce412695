"""Histories have an entry for each active row, and none when they are off."""

from __future__ import annotations

import json
from typing import Any

import torch

from xlm.utils.history import PredictorHistoryMixin


class Predictor(PredictorHistoryMixin):
    class tokenizer:  # noqa: N801
        @staticmethod
        def batch_decode(ids: torch.Tensor, skip_special_tokens: bool) -> list[str]:
            return [" ".join(map(str, row)) for row in ids.tolist()]


def test_off_by_default() -> None:
    predictor = Predictor()
    predictor.init_history()
    history = predictor.create_history(2)
    predictor.update_history_from_state(history, {"ids": torch.zeros(2, 1)}, 0)
    predictor.update_history_explicit(history, ["a", "b"], [0.1, 0.2], 0)
    assert predictor.format_history_for_output(history) == [[], []]


def test_entries_of_active_rows_only() -> None:
    predictor = Predictor()
    predictor.init_history(return_history=True)
    history = predictor.create_history(2)
    state: dict[str, Any] = {
        "ids": torch.tensor([[1, 2], [3, 4]]),
        "confidence": torch.tensor([0.123456, 0.5]),
        "active": torch.tensor([True, False]),
    }
    predictor.update_history_from_state(history, state, 0, active_mask_key="active")
    predictor.update_history_explicit(history, ["x", "y"], torch.tensor([[0.5, 1.0], [0.0, 0.5]]), 1)
    predictor.update_history_explicit(history, ["z", "w"], None, 2, [False, True])
    out = predictor.format_history_for_output(history)
    assert out == [[["1 2", 0.1235, 0], ["x", 0.75, 1]], [["y", 0.25, 1], ["w", None, 2]]]
    assert json.loads(json.dumps(out)) == out
    assert predictor.format_history_for_output(history, 1)[0][0][1] == 0.1


def test_a_decode_function_may_return_more_than_texts() -> None:
    predictor = Predictor()
    predictor.init_history(True, decode_fn=lambda state: (["a"], "more"))
    history = predictor.create_history(1)
    predictor.update_history_from_state(history, {}, 7)
    assert history == [[("a", None, 7)]]

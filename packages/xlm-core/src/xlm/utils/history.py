"""Keeps a predictor's rows after each step, to show how it generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

# text, confidence (None where the predictor has none), step
HistoryEntry = tuple[str, float | None, int]
History = list[list[HistoryEntry]]


class PredictorHistoryMixin:
    """For a predictor that may return its intermediate texts; off unless `init_history(return_history=True)`."""

    tokenizer: Any
    return_history: bool = False
    history_decode_fn: Callable[[Mapping[str, Any]], Any] | None = None

    def init_history(
        self, return_history: bool = False, decode_fn: Callable[[Mapping[str, Any]], Any] | None = None
    ) -> None:
        """Call once. `decode_fn(state)` returns one text per row (or a tuple that begins with that list).

        Without it, `state["ids"]` is decoded by `self.tokenizer`.
        """
        self.return_history = return_history
        self.history_decode_fn = decode_fn

    def create_history(self, batch_size: int) -> History:
        """An empty history per row."""
        return [[] for _ in range(batch_size)]

    def update_history_from_state(
        self,
        history: History,
        state: Mapping[str, Any],
        step: int,
        confidence_key: str = "confidence",
        active_mask_key: str | None = None,
    ) -> History:
        """Add an entry per row from the predictor's state; rows whose active mask is False get no entry."""
        if not self.return_history:
            return history
        active = None if active_mask_key is None else state.get(active_mask_key)
        return self.update_history_explicit(history, self._decode_state(state), state.get(confidence_key), step, active)

    def update_history_explicit(
        self,
        history: History,
        texts: Sequence[str],
        confidences: Tensor | Sequence[float] | None,
        step: int,
        active_mask: Tensor | Sequence[bool] | None = None,
    ) -> History:
        """Add `(text, confidence, step)` to every active row; returns the same history."""
        if not self.return_history:
            return history
        confidence = _per_row(confidences, len(history))
        active = [True] * len(history) if active_mask is None else _as_list(active_mask)
        for row, text, value, is_active in zip(history, texts, confidence, active, strict=True):
            if is_active:
                row.append((text, value, step))
        return history

    def format_history_for_output(self, history: History, round_precision: int = 4) -> list[list[list[Any]]]:
        """JSON-able: per row a list of [text, rounded confidence, step]."""
        return [
            [[text, None if c is None else round(c, round_precision), step] for text, c, step in row] for row in history
        ]

    def _decode_state(self, state: Mapping[str, Any]) -> Sequence[str]:
        if self.history_decode_fn is None:
            texts: Sequence[str] = self.tokenizer.batch_decode(state["ids"], skip_special_tokens=False)
            return texts
        decoded = self.history_decode_fn(state)
        return decoded[0] if isinstance(decoded, tuple) else decoded


def _as_list(values: Tensor | Sequence[Any]) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else list(values)


def _per_row(confidences: Tensor | Sequence[float] | None, num_rows: int) -> list[float | None]:
    if confidences is None:
        return [None] * num_rows
    if isinstance(confidences, Tensor) and confidences.ndim > 1:
        # One number per position: the confidence of a row is the mean over its positions.
        confidences = confidences.double().flatten(1).mean(dim=1)
    return [float(c) for c in _as_list(confidences)]

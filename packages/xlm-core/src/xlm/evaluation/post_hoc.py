"""Runs an evaluator over all predictions of a pass, once the pass is over."""

from __future__ import annotations

from typing import Any, Protocol

from xlm.utils.rank_zero import gathered

Row = dict[str, Any]


class PostHocEvaluator(Protocol):
    """Judges predictions as a whole; may add fields to the rows."""

    def eval(self, predictions: list[Row], tokenizer: Any = None) -> tuple[list[Row], dict[str, float]]: ...


class PostHocPasses:
    """Collects the rows of each prediction loader of a pass, on all ranks, and has them judged.

    Args:
        evaluator: None collects nothing.
    """

    def __init__(self, evaluator: PostHocEvaluator | None) -> None:
        self.evaluator = evaluator
        self._rows: dict[str, list[Row]] = {}

    def add(self, name: str, rows: list[Row]) -> None:
        """Remember the rows of one batch."""
        if self.evaluator is not None:
            self._rows.setdefault(name, []).extend(rows)

    def finish(self, tokenizer: Any) -> dict[str, float]:
        """`loader/name` → number, the same on every rank; forgets the rows."""
        found, self._rows = self._rows, {}
        if self.evaluator is None:
            return {}
        values: dict[str, float] = {}
        for loader, rows in found.items():
            everywhere = [row for part in gathered(rows) for row in part]
            _, numbers = self.evaluator.eval(everywhere, tokenizer=tokenizer)
            values |= {f"{loader}/{name}": float(number) for name, number in numbers.items()}
        return values

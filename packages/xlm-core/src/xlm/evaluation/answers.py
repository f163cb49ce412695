"""Marks predicted answers as valid or not by a task's judge, which accepts any valid answer, not only the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from xlm.errors import ConfigError
from xlm.log_predictions import Row
from xlm.utils.annotations import Text, checked
from xlm.utils.imports import get_function
from xlm.utils.instantiate import check_arguments

VALID, MEASURES = "valid", "measures"
Verdict = bool | Mapping[str, float | None]
# judge(prompt, answer, reference, **judge_kwargs): texts without special tokens; no reference: None. Never raises for
# an answer, however bad.
Judge = Callable[..., Verdict]


class JudgedAnswers:
    """A post-hoc evaluator: the share of valid answers of each prediction loader, and the means of other measures.

    Every row of a prediction gets `valid`, and `measures` if the judge returns more than that.

    Args:
        judge: `fn(prompt, answer, reference, **judge_kwargs)`, or its dotted path. It returns whether the answer is
            valid, or a mapping that has `valid` and further numbers (None: does not apply to this answer).
        judge_kwargs: options of the judge.
    """

    def __init__(self, judge: Text | Judge, judge_kwargs: Mapping[str, Any] | None = None) -> None:
        check_arguments(JudgedAnswers, {"judge_kwargs": judge_kwargs}, "post_hoc_evaluator")
        key = "post_hoc_evaluator.judge"
        self.judge: Judge = judge if callable(judge) else get_function(checked(key, judge, Text), key=key)
        self.judge_kwargs = dict(judge_kwargs or {})

    def mark(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of one batch with their verdicts. ConfigError if they have no prompt or no answer."""
        return [row if VALID in row else {**row, **self._verdict(row)} for row in rows]

    def eval(self, predictions: list[Row], tokenizer: Any = None, **_: Any) -> tuple[list[Row], dict[str, float]]:
        """All rows with their verdicts, and the mean of each number over the rows that have it."""
        rows = self.mark(predictions)
        return rows, {name: fmean(values) for name, values in _numbers(rows).items()}

    def errors(self, predictions: list[Row]) -> dict[str, tuple[int, float]]:
        """Number → rows and standard error of the mean over them; without those of fewer than two rows."""
        return {
            name: (len(values), stdev(values) / math.sqrt(len(values)))
            for name, values in _numbers(self.mark(predictions)).items()
            if len(values) > 1
        }

    def _verdict(self, row: Row) -> dict[str, Any]:
        answer = row.get("prediction", row.get("text"))
        if answer is None or "prompt" not in row:
            raise ConfigError(
                "A judge needs rows with 'prompt', and 'prediction' or 'text', but Predictor.to_dict gives: "
                f"{', '.join(row)}.\nTo run without a judge: post_hoc_evaluator._target_=null",
                key="post_hoc_evaluator.judge",
            )
        found = self.judge(row["prompt"], answer, row.get("truth"), **self.judge_kwargs)
        if not isinstance(found, Mapping):
            return {VALID: bool(found)}
        measures = {name: value for name, value in found.items() if name != VALID}
        return {VALID: bool(found[VALID])} | ({MEASURES: measures} if measures else {})


def _numbers(rows: Sequence[Row]) -> dict[str, list[float]]:
    """`valid` and the measures of all rows that have them, by name."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in {VALID: row[VALID], **row.get(MEASURES, {})}.items():
            if value is not None:
                found.setdefault(name, []).append(float(value))
    return found

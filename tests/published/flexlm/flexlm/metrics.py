"""A metric of the package's own, and what it is fed."""

from __future__ import annotations

from typing import Any

from xlm.metrics import ExactMatch, MetricWrapper, TokenAccuracy

__all__ = ["ExactMatch", "FlexMetricWrapper", "TokenAccuracy"]


class FlexMetricWrapper(MetricWrapper):
    """The same by another name."""


def nll_update_fn(batch: dict[str, Any], loss_dict: dict[str, Any], tokenizer: Any = None, **kwargs: Any):
    return {"value": loss_dict["nlls"].mean()}


class LengthEvaluator:
    """A post-hoc evaluator: how long the texts are."""

    def __init__(self, unit: str = "words"):
        self.unit = unit

    def eval(self, predictions: list[dict[str, Any]], tokenizer: Any = None, **kwargs: Any):
        for row in predictions:
            row["length"] = len(row["text"].split())
        return predictions, {f"mean_{self.unit}": sum(row["length"] for row in predictions) / max(1, len(predictions))}

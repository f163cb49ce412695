"""A number with its standard error over texts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from xlm.evaluation.likelihood import ratio


class Estimate(NamedTuple):
    """A value over `n` texts.

    `value` is None where it means nothing (all texts are empty), `se` where the error cannot be known.
    """

    value: float | None
    se: float | None
    n: int

    def record(self) -> dict[str, Any]:
        """As the record of an evaluation holds a metric."""
        return {"value": self.value, "se": self.se, "n": self.n, "se_over": None if self.se is None else "examples"}


def ratio_of(part: ArrayLike, whole: ArrayLike) -> Estimate:
    """Σ part / Σ whole over independent texts, each with its part and its whole; empty ones count in n."""
    a, b = (torch.as_tensor(np.asarray(values, dtype=np.float64)) for values in (part, whole))
    if len(b) == 0 or float(b.sum()) == 0:
        return Estimate(None, None, len(b))
    value, error = ratio(a, b)
    return Estimate(value, None if math.isnan(error) else error, len(b))


def mean_of(values: ArrayLike) -> Estimate:
    """The mean of a number that each text has."""
    found = np.asarray(values, dtype=np.float64)
    return ratio_of(found, np.ones_like(found))

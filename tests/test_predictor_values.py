"""Every option of every predictor with values that it may not have: refused by its name, never taken or a bug."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from arlm.predictor_arlm import ARLMPredictor
from ilm.predictor_ilm import ILMPredictor
from mdlm.predictor_mdlm import MDLMPredictor
from mlm.predictor_mlm import MLMPredictor
from xlm.errors import ConfigError

FILLED = ("tokenizer", "noise_schedule", "model")
OPTIONS = [
    pytest.param(predictor, name, id=f"{predictor.__name__}.{name}")
    for predictor in (ARLMPredictor, ILMPredictor, MDLMPredictor, MLMPredictor)
    for name in inspect.signature(predictor).parameters
    if name not in FILLED
]
NEVER: list[Any] = [math.nan, math.inf, -math.inf, -1, -0.5, 10**40, "wrogn", "no", [1], [None], {"a": 1}, {}]


@pytest.mark.parametrize(("predictor", "name"), OPTIONS)
def test_a_value_outside_its_type_is_refused(predictor: Any, name: str) -> None:
    for value in NEVER:
        if name in ("temperature", "threshold", "stopping_threshold", "entropy_bound") and value == 10**40:
            continue  # a number like any other
        if name == "threshold" and isinstance(value, int | float) and math.isfinite(value):
            continue  # a margin or an entropy, without bounds
        with pytest.raises(ConfigError, match=rf"^predictor\.{name} is .*, and must be "):
            predictor(**{name: value})

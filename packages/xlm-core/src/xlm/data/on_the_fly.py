"""What a function that runs whenever an example is fetched may know: the epoch, the row, and a seed made of both."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

# Arguments by name: a pure function of the run's seed, the epoch and the row; the epoch, from 0; the number of the row.
KEYS = ("noise_seed", "epoch", "row")


def accepted_keys(function: Callable[..., Any], by_any_name: bool = False) -> tuple[str, ...]:
    """Those of KEYS that the signature of a function names; all of them for `**kwargs` if `by_any_name`."""
    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return ()
    if by_any_name and any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return KEYS
    return tuple(name for name in KEYS if name in parameters)

"""Process-wide debugging switches, set from the config key `global_flags`; every one is off by default."""

from __future__ import annotations

from collections.abc import Mapping

DEBUG: bool = False
DEBUG_OVERFIT: bool = False
DEBUG_PRINT_PREDS: bool = False
DEBUG_PROFILE: bool = False
DEBUG_VIZ_LOGITS: bool = False


def set_flags(values: Mapping[str, bool]) -> None:
    """Set each named flag; a name that is new becomes a flag, since models may bring their own."""
    for name, value in values.items():
        globals()[name] = value

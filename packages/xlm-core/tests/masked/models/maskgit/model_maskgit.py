"""The network: that of all masked families."""

from __future__ import annotations

from xlm.masked.network import RotaryMaskedNetwork


class MaskGIT(RotaryMaskedNetwork):
    """p(x_i | what is visible)."""

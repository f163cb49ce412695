"""The masked network: a pre-LN bidirectional transformer with rotary positions and an untied output layer."""

from __future__ import annotations

from xlm.masked.network import RotaryMaskedNetwork


class RotaryMLM(RotaryMaskedNetwork):
    """p(x_i | what is visible) for every position of a sequence; arguments as for `RotaryMaskedNetwork`."""

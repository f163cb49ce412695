"""The loss: −log p of each masked token, weighted so that it is the NELBO for masks with probability cos(πt/2)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from xlm.masked.loss import MaskedLoss


class MaskGITLoss(MaskedLoss):
    """E_t[ −m′(t)/m(t) · Σ_{i masked} −log p(x_i | z_t) ] per real token, with m = cos(πt/2)."""

    def weights(self, batch: Any) -> Tensor:
        return math.pi / 2 * (batch["t"] * (math.pi / 2)).tan()

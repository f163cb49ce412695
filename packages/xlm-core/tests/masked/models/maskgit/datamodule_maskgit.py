"""Collators: tokens are masked with probability cos(πt/2), so that many are."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from xlm.masked.collate import CleanRows, MaskedBatch, MaskedCollator, MaskedSeq2SeqCollator, masked_batch


class CosineMasks:
    """Masks a row at t with probability cos(πt/2)."""

    tokenizer: Any

    def corrupt(self, rows: CleanRows, t: Tensor, seeds: Tensor) -> MaskedBatch:
        return masked_batch(rows, t, (t * (math.pi / 2)).cos(), seeds, self.tokenizer.mask_token_id)


class MaskGITCollator(CosineMasks, MaskedCollator):
    """Texts."""


class MaskGITSeq2SeqCollator(CosineMasks, MaskedSeq2SeqCollator):
    """Answers of prompts."""

"""The sampler: the surest positions first, few at the beginning and many at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from xlm.masked.predictor import MaskedPredictor
from xlm.masked.unmasking import ConfidenceOrder, Filled, MaskedNetwork, Slots, TokenDraw, fill_by_confidence
from xlm.utils.annotations import Count


class CosineOrder(ConfidenceOrder):
    """After call k of T, the share cos(πk/2T) of the masks is left."""

    def choose(self, scores: Tensor, masked: Tensor, steps_left: int) -> Tensor:
        done = self.max_steps - steps_left
        now, then = (math.cos(math.pi / 2 * k / self.max_steps) for k in (done, done + 1))
        num_left = (masked.sum(dim=1, keepdim=True) * then / now).floor()
        order = scores.masked_fill(~masked, float("inf")).argsort(dim=1).argsort(dim=1)
        return masked & (order >= num_left.clamp(max=masked.shape[1] - 1))


@dataclass(eq=False, repr=False)
class MaskGITPredictor(MaskedPredictor):
    """Fills all masks in at most `max_steps` calls."""

    max_steps: Count = 8

    def fill(self, network: MaskedNetwork, draw: TokenDraw, ids: Tensor, slots: Slots, seeds: Tensor) -> Filled:
        return fill_by_confidence(network, draw, ids, slots, CosineOrder("top_prob", self.max_steps), seeds)

"""Iterative unmasking: random positions or the surest ones, a few per network call."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xlm.errors import ConfigError
from xlm.masked.predictor import MaskedPredictor
from xlm.masked.unmasking import (
    ConfidenceOrder,
    Filled,
    MaskedNetwork,
    Slots,
    TokenDraw,
    block_by_block,
    check_one_rule,
    fill_by_confidence,
    fill_by_order,
    fill_mask_probs,
    uniform_order,
)
from xlm.sampling import Confidence
from xlm.utils.annotations import Count, NonNegative, Number


@dataclass(eq=False, repr=False)
class MLMPredictor(MaskedPredictor):
    """Fills every mask of a batch within `max_steps` network calls per row; given tokens never change.

    Further options are those of `MaskedPredictor`.

    Args:
        max_steps: most network calls per row; None for one per mask, at most `block_size`.
        confidence: None fills ⌈masked / steps left⌉ uniformly random masks per call; "top_prob", "prob_diff" and
            "entropy" fill those that the network is surest of.
        threshold: with a confidence, fill all positions that are at least that sure (at most that entropy, in nats)
            instead of a fixed number, and always the surest one.
        entropy_bound: with a confidence, fill the surest positions as long as the sum of their entropies without the
            largest is at most this, in nats (EB-Sampler, arXiv 2505.24857); 0 fills one at a time, or all that are
            certain.
    """

    max_steps: Count | None = None
    confidence: Confidence | None = None
    threshold: Number | None = None
    entropy_bound: NonNegative | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether it always generates the same text: the likeliest tokens, in an order that is not random."""
        return self.temperature == 0 and self.confidence is not None and self.text_length != "modelled"

    def check_options(self) -> None:
        if self.threshold is not None and self.confidence is None:
            raise ConfigError("predictor.threshold needs predictor.confidence: of what should it be the threshold?")
        if self.entropy_bound is not None and self.confidence is None:
            raise ConfigError(
                "predictor.entropy_bound needs predictor.confidence, the order in which masks are filled."
            )
        check_one_rule(self.threshold, self.entropy_bound)

    def fill(self, network: MaskedNetwork, draw: TokenDraw, ids: Tensor, slots: Slots, seeds: Tensor) -> Filled:
        """By confidence, or in uniformly random order."""
        max_steps = self.max_steps or slots.most()
        if self.confidence is not None:
            by_confidence = ConfidenceOrder(self.confidence, max_steps, self.threshold, self.entropy_bound)
            return fill_by_confidence(network, draw, ids, slots, by_confidence, seeds)
        mask_probs = block_by_block(fill_mask_probs(slots.masked, slots.counters, seeds), slots)
        order = uniform_order(mask_probs, slots.masked, max_steps)
        return fill_by_order(network, draw, ids, slots, order, seeds)

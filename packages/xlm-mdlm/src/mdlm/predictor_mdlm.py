"""Samplers of masked diffusion: ancestral, first-hitting, by confidence, with remasking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mdlm.types_mdlm import MDLMPredictionBatch, MDLMPredictionDict
from xlm.errors import ConfigError
from xlm.masked.predictor import MaskedPredictor
from xlm.masked.semi_autoregressive import extended
from xlm.masked.unmasking import (
    ConfidenceOrder,
    Filled,
    MaskedNetwork,
    Slots,
    TokenDraw,
    ancestral,
    block_by_block,
    check_one_rule,
    fill_by_confidence,
    fill_by_order,
    fill_mask_probs,
    fill_with_remasking,
    first_hitting,
)
from xlm.noise import RescaledSchedule
from xlm.sampling import Confidence
from xlm.utils.annotations import Count, CountOrZero, NonNegative, Number, Probability

Sampler = Literal["ancestral", "ancestral_every_step", "first_hitting", "confidence", "remasking"]


@dataclass(eq=False, repr=False)
class MDLMPredictor(MaskedPredictor):
    """Fills every mask of a batch by running the diffusion backwards; given tokens never change.

    Further options are those of `MaskedPredictor`.

    Args:
        sampler: "ancestral", on a time grid; the network runs only at steps that fill something in a row, which
            changes no draw. "ancestral_every_step": the same without that cache. "first_hitting": one token per call,
            exactly as in continuous time, at most as many calls as masks. "confidence": the positions that the network
            is surest of. "remasking": ancestral, but tokens may be taken back.
        num_steps: of the time grid, or most calls by confidence (null there: one per mask).
        confidence: "top_prob", "prob_diff" (margin of the best two) or "entropy".
        threshold: by confidence, fill all positions at least that sure instead of a fixed number.
        entropy_bound: by confidence, fill the surest positions as long as the sum of their entropies without the
            largest is at most this, in nats (EB-Sampler, arXiv 2505.24857); 0 fills one at a time, or all that are
            certain.
        remasking: with that sampler, the largest probability with which a filled token is masked again in a step.
        max_length: most tokens of an answer; above a block, it goes on in further blocks, each with the end of the last
            as context, and may end in the last one only. None for one block.
        context: tokens of the last block that the next one starts from; None for half a block.
    """

    sampler: Sampler = "first_hitting"
    num_steps: Count | None = 128
    confidence: Confidence = "top_prob"
    threshold: Number | None = None
    entropy_bound: NonNegative | None = None
    remasking: Probability = 0.05
    max_length: Count | None = None
    context: CountOrZero | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether it always generates the same text: the likeliest tokens, in an order that is not random."""
        return self.temperature == 0 and self.sampler == "confidence" and self.text_length != "modelled"

    def check_options(self) -> None:
        if self.sampler == "confidence":
            check_one_rule(self.threshold, self.entropy_bound)
        if self.sampler == "remasking" and self.decode_block is not None:
            raise ConfigError(
                "predictor.sampler=remasking takes tokens back anywhere: set predictor.decode_block=null."
            )
        if self.sampler == "ancestral_every_step" and self.cache != "none":
            raise ConfigError(
                "predictor.sampler=ancestral_every_step computes everything in every step: set predictor.cache=none."
            )
        if self.num_steps is None and self.sampler not in ("first_hitting", "confidence"):
            raise ConfigError(
                f"predictor.sampler={self.sampler} needs predictor.num_steps, the steps of its time grid."
            )

    def unread_options(self) -> dict[str, str]:
        read = {
            "confidence": ("num_steps", "confidence", "threshold", "entropy_bound"),
            "first_hitting": (),
            "remasking": ("num_steps", "remasking"),
        }.get(self.sampler, ("num_steps",))
        own = ("num_steps", "confidence", "threshold", "entropy_bound", "remasking")
        names = [name for name in own if name not in read]
        unread = dict.fromkeys(names, f"sampler={self.sampler} does not use it")
        return unread if self.max_length is not None else {**unread, "context": "it needs max_length, which is null"}

    def predict_rows(self, batch: MDLMPredictionBatch, seeds: Tensor, may_end: bool = True) -> MDLMPredictionDict:
        """One block, or as many as `max_length` takes."""
        if self.max_length is None:
            return super().predict_rows(batch, seeds, may_end)
        return extended(super().predict_rows, batch, seeds, self.max_length, self.context, self.tokenizer)

    def condition(self, mask_prob: Tensor) -> dict[str, Tensor]:
        """σ at the time at which tokens are masked with that probability."""
        return {"sigma": RescaledSchedule(self.noise_schedule).sigma(mask_prob)}

    def fill(self, network: MaskedNetwork, draw: TokenDraw, ids: Tensor, slots: Slots, seeds: Tensor) -> Filled:
        """As `sampler` says."""
        if self.sampler == "confidence":
            most = self.num_steps or slots.most()
            order = ConfidenceOrder(self.confidence, most, self.threshold, self.entropy_bound)
            return fill_by_confidence(network, draw, ids, slots, order, seeds)
        mask_probs = block_by_block(fill_mask_probs(slots.masked, slots.counters, seeds), slots)
        if self.sampler == "first_hitting":
            return fill_by_order(network, draw, ids, slots, first_hitting(mask_probs, slots.masked), seeds)
        grid = RescaledSchedule(self.noise_schedule).grid(self.num_steps or 1, ids.device)
        if self.sampler == "remasking":
            mask_token_id = self.tokenizer.mask_token_id
            return fill_with_remasking(network, draw, ids, slots, grid, self.remasking, mask_token_id, seeds)
        every_step = self.sampler == "ancestral_every_step"
        return fill_by_order(network, draw, ids, slots, ancestral(mask_probs, slots.masked, grid, every_step), seeds)

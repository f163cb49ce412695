"""Samplers of masked diffusion: ancestral, first-hitting, by confidence, with remasking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mdlm.types_mdlm import MDLMPredictionBatch, MDLMPredictionDict
from xlm.decoding.extend import extended
from xlm.decoding.fill import (
    ConfidenceOrder,
    Filled,
    MaskedNetwork,
    Slots,
    TokenDraw,
    fill_by_confidence,
    fill_by_order,
)
from xlm.decoding.masking import StretchedSchedule
from xlm.decoding.orders import ancestral, fill_rates, first_hitting
from xlm.decoding.output import as_rows, continue_text, finished, generate, slots_of, suppressed_ids
from xlm.decoding.remask import fill_with_remasking
from xlm.decoding.streams import row_seeds
from xlm.decoding.text_length import TextLength, with_drawn_lengths
from xlm.decoding.trace import begin_trace
from xlm.decoding.unread import say_unread, unread_filters
from xlm.errors import ConfigError
from xlm.harness import Predictor
from xlm.sampling import Confidence, LogitsSampler
from xlm.utils.annotations import AnySeed, Count, CountOrZero, NonNegative, Number, Probability, Share
from xlm.utils.instantiate import check_arguments

Sampler = Literal["ancestral", "ancestral_every_step", "first_hitting", "confidence", "remasking"]


class MDLMPredictor(Predictor[MDLMPredictionBatch, MDLMPredictionDict]):
    """Fills every mask of a batch by running the diffusion backwards; given tokens never change.

    Args:
        tokenizer, noise_schedule, model: filled by the harness.
        sampler: "ancestral", on a time grid; the network runs only at steps that fill something in a row, which
            changes no draw. "ancestral_every_step": the same without that cache. "first_hitting": one token per call,
            exactly as in continuous time, at most as many calls as masks. "confidence": the positions that the network
            is surest of. "remasking": ancestral, but tokens may be taken back.
        num_steps: of the time grid, or most calls by confidence (null there: one per mask).
        confidence: "top_prob", "prob_diff" (margin of the best two) or "entropy".
        threshold: by confidence, fill all positions at least that sure instead of a fixed number.
        remasking: with that sampler, the largest probability with which a filled token is masked again in a step.
        temperature: of the softmax; 0 is greedy.
        top_k, top_p, min_p: filters on the logits; None for none.
        suppressed_tokens: tokens never to produce, besides mask, pad, BOS, CLS and SEP.
        block_size: BOS and masks after a prompt, for `generate`; in a batch the masks say it themselves.
        text_length: as in training. With "modelled", each block of masks is cut to a length drawn from the network's
            length model; with "learnt", the block behind a text with masks is filled with EOS.
        max_length: most tokens of an answer; above a block, it goes on in further blocks, each with the end of the last
            as context, and may end in the last one only. None for one block.
        context: tokens of the last block that the next one starts from; None for half a block.
        seed: what a row draws follows from the example's own seed and this; without either, from torch's global
            generator.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        noise_schedule: Any = None,
        model: Any = None,
        sampler: Sampler = "first_hitting",
        num_steps: Count | None = 128,
        confidence: Confidence = "top_prob",
        threshold: Number | None = None,
        remasking: Probability = 0.05,
        temperature: NonNegative = 1.0,
        top_k: Count | None = None,
        top_p: Share | None = None,
        min_p: Probability | None = None,
        suppressed_tokens: Sequence[str] = (),
        block_size: Count | None = None,
        text_length: TextLength = "given",
        max_length: Count | None = None,
        context: CountOrZero | None = None,
        seed: AnySeed | None = None,
    ) -> None:
        check_arguments(MDLMPredictor, locals(), "predictor")
        if num_steps is None and sampler not in ("first_hitting", "confidence"):
            raise ConfigError(f"predictor.sampler={sampler} needs predictor.num_steps, the steps of its time grid.")
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.model = model
        self.method = sampler
        self.num_steps = num_steps
        self.confidence: Confidence = confidence
        self.threshold = threshold
        self.remasking = remasking
        self.sampler = LogitsSampler(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        self.suppressed_tokens = suppressed_tokens
        self.block_size = block_size
        self.text_length = text_length
        self.max_length = max_length
        self.context = context
        self.seed = seed
        self.unread = say_unread(
            MDLMPredictor, locals(), {**_unread(sampler, max_length), **unread_filters(self.sampler)}
        )

    @torch.no_grad()
    def predict(
        self,
        batch: MDLMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MDLMPredictionDict:
        """Fill the masks of `input_ids` (B, L).

        Returns:
            `ids` (B, L): the rows without masks, pads behind an answer's first EOS. `network_calls` (B,): forward
            passes in which a row took part. `order` (B, L): by which of them a position was filled.
        """
        begin_trace(batch, batch["output_start_idx"], self.tokenizer)
        seeds = row_seeds(len(batch["input_ids"]), self.seed, batch.get("noise_seed"), batch["input_ids"].device)
        if self.max_length is not None:
            return extended(self._predict_block, batch, seeds, self.max_length, self.context, self.tokenizer)
        return self._predict_block(batch, seeds)

    def _predict_block(self, batch: MDLMPredictionBatch, seeds: Tensor, may_end: bool = True) -> MDLMPredictionDict:
        if self.text_length == "modelled" and may_end:
            batch = with_drawn_lengths(batch, self.model, self.tokenizer, seeds)
        slots = slots_of(batch, self.tokenizer.mask_token_id)
        if not may_end:
            slots = slots._replace(inside=slots.masked)
        filled = self._fill(batch["input_ids"], batch["attention_mask"].bool(), slots, seeds)
        return finished(batch, slots, filled, self.tokenizer)

    def _fill(self, ids: Tensor, mask: Tensor, slots: Slots, seeds: Tensor) -> Filled:
        schedule = StretchedSchedule(self.noise_schedule)
        network = MaskedNetwork(
            lambda z, rows, rate: self.model.features(z, mask[rows], schedule.sigma(rate)),
            self.model.output_layer,
        )
        draw = TokenDraw(
            self.sampler, suppressed_ids(self.tokenizer, self.suppressed_tokens), self.tokenizer.eos_token_id
        )
        if self.method == "confidence":
            most = int(slots.masked.sum(dim=1).max()) if slots.masked.numel() else 1
            order = ConfidenceOrder(self.confidence, self.num_steps or max(1, most), self.threshold)
            return fill_by_confidence(network, draw, ids, slots, order, seeds)
        if self.method == "remasking":
            grid = schedule.grid(self.num_steps or 1, ids.device)
            mask_token_id = self.tokenizer.mask_token_id
            return fill_with_remasking(network, draw, ids, slots, grid, self.remasking, mask_token_id, seeds)
        rates = fill_rates(slots.masked, slots.counters, seeds)
        if self.method == "first_hitting":
            return fill_by_order(network, draw, ids, slots, first_hitting(rates, slots.masked), seeds)
        grid = schedule.grid(self.num_steps or 1, ids.device)
        every_step = self.method == "ancestral_every_step"
        return fill_by_order(network, draw, ids, slots, ancestral(rates, slots.masked, grid, every_step), seeds)

    def to_dict(self, batch: MDLMPredictionBatch, preds: MDLMPredictionDict) -> list[dict[str, Any]]:
        """Rows of prompt, prediction, truth (where the batch has it), steps and network calls."""
        return as_rows(batch, preds, self.tokenizer)

    def generate(self, prompts: list[str]) -> list[str]:
        """Text for each prompt, without special tokens: its masks filled, or an answer of at most a block."""
        device: torch.device = next(self.model.parameters()).device
        return generate(self.predict, self.tokenizer, prompts, self.block_size, self.seed, device, self.text_length)

    def continue_text(self, prompts: list[str]) -> list[str]:
        """What follows the beginnings of texts, at most a block with them, for a model that learnt whole texts."""
        device: torch.device = next(self.model.parameters()).device
        return continue_text(self.predict, self.tokenizer, prompts, self.block_size, self.seed, device)


def _unread(sampler: str, max_length: int | None) -> dict[str, str]:
    """Option → why this sampler does not read it."""
    read = {
        "confidence": ("num_steps", "confidence", "threshold"),
        "first_hitting": (),
        "remasking": ("num_steps", "remasking"),
    }.get(sampler, ("num_steps",))
    names = [name for name in ("num_steps", "confidence", "threshold", "remasking") if name not in read]
    unread = dict.fromkeys(names, f"sampler={sampler} does not use it")
    return unread if max_length is not None else {**unread, "context": "it needs max_length, which is null"}

"""Iterative unmasking: random positions or the surest ones, a few per network call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlm.types_mlm import MLMPredictionBatch, MLMPredictionDict
from xlm.decoding.fill import ConfidenceOrder, MaskedNetwork, TokenDraw, fill_by_confidence, fill_by_order
from xlm.decoding.orders import fill_rates, uniform_order
from xlm.decoding.output import as_rows, continue_text, finished, generate, slots_of, suppressed_ids
from xlm.decoding.streams import row_seeds
from xlm.decoding.text_length import TextLength, with_drawn_lengths
from xlm.decoding.trace import begin_trace
from xlm.decoding.unread import say_unread, unread_filters
from xlm.errors import ConfigError
from xlm.harness import Predictor
from xlm.sampling import Confidence, LogitsSampler
from xlm.utils.annotations import AnySeed, Count, NonNegative, Number, Probability, Share
from xlm.utils.instantiate import check_arguments


class MLMPredictor(Predictor[MLMPredictionBatch, MLMPredictionDict]):
    """Fills every mask of a batch within `max_steps` network calls per row; given tokens never change.

    Args:
        tokenizer, noise_schedule, model: filled by the harness; the schedule is unused.
        max_steps: most network calls per row; None for one per mask, at most `block_size`.
        confidence: None fills ⌈masked / steps left⌉ uniformly random masks per call; "top_prob", "prob_diff" and
            "entropy" fill those that the network is surest of.
        threshold: with a confidence, fill all positions that are at least that sure (at most that entropy, in nats)
            instead of a fixed number, and always the surest one.
        temperature: of the softmax; 0 is greedy.
        top_k, top_p, min_p: filters on the logits; None for none.
        suppressed_tokens: tokens never to produce, besides mask, pad, BOS, CLS and SEP.
        block_size: BOS and masks after a prompt, for `generate`; in a batch the masks say it themselves.
        text_length: as in training. With "modelled", each block of masks is cut to a length drawn from the network's
            length model; with "learnt", the block behind a text with masks is filled with EOS.
        seed: what a row draws follows from the example's own seed and this; without either, from torch's global
            generator.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        noise_schedule: Any = None,
        model: Any = None,
        max_steps: Count | None = None,
        confidence: Confidence | None = None,
        threshold: Number | None = None,
        temperature: NonNegative = 1.0,
        top_k: Count | None = None,
        top_p: Share | None = None,
        min_p: Probability | None = None,
        suppressed_tokens: Sequence[str] = (),
        block_size: Count | None = None,
        text_length: TextLength = "given",
        seed: AnySeed | None = None,
    ) -> None:
        check_arguments(MLMPredictor, locals(), "predictor")
        if threshold is not None and confidence is None:
            raise ConfigError("predictor.threshold needs predictor.confidence: of what should it be the threshold?")
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.model = model
        self.max_steps = max_steps
        self.confidence = confidence
        self.threshold = threshold
        self.sampler = LogitsSampler(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        self.suppressed_tokens = suppressed_tokens
        self.block_size = block_size
        self.text_length = text_length
        self.seed = seed
        self.unread = say_unread(MLMPredictor, locals(), unread_filters(self.sampler))

    @torch.no_grad()
    def predict(
        self,
        batch: MLMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MLMPredictionDict:
        """Fill the masks of `input_ids` (B, L).

        Returns:
            `ids` (B, L): the rows without masks, pads behind an answer's first EOS. `network_calls` (B,): forward
            passes in which a row took part. `order` (B, L): by which of them a position was filled.
        """
        begin_trace(batch, batch["output_start_idx"], self.tokenizer)
        seeds = row_seeds(len(batch["input_ids"]), self.seed, batch.get("noise_seed"), batch["input_ids"].device)
        if self.text_length == "modelled":
            batch = with_drawn_lengths(batch, self.model, self.tokenizer, seeds)
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        slots = slots_of(batch, self.tokenizer.mask_token_id)
        draw = TokenDraw(
            self.sampler, suppressed_ids(self.tokenizer, self.suppressed_tokens), self.tokenizer.eos_token_id
        )
        network = MaskedNetwork(lambda z, rows, rate: self.model.features(z, mask[rows]), self.model.output_layer)
        max_steps = self.max_steps or max(1, int(slots.masked.sum(dim=1).max()) if slots.masked.numel() else 1)
        if self.confidence is None:
            rates = fill_rates(slots.masked, slots.counters, seeds)
            filled = fill_by_order(network, draw, ids, slots, uniform_order(rates, slots.masked, max_steps), seeds)
        else:
            by_confidence = ConfidenceOrder(self.confidence, max_steps, self.threshold)
            filled = fill_by_confidence(network, draw, ids, slots, by_confidence, seeds)
        return finished(batch, slots, filled, self.tokenizer)

    def to_dict(self, batch: MLMPredictionBatch, preds: MLMPredictionDict) -> list[dict[str, Any]]:
        """Rows of prompt, prediction, truth (where the batch has it), steps and network calls."""
        return as_rows(batch, preds, self.tokenizer)

    def generate(self, prompts: list[str]) -> list[str]:
        """Text for each prompt, without special tokens: its masks filled, or an answer of at most a block."""
        device: Tensor = next(self.model.parameters())
        where = device.device
        return generate(self.predict, self.tokenizer, prompts, self.block_size, self.seed, where, self.text_length)

    def continue_text(self, prompts: list[str]) -> list[str]:
        """What follows the beginnings of texts, at most a block with them, for a model that learnt whole texts."""
        device: Tensor = next(self.model.parameters())
        return continue_text(self.predict, self.tokenizer, prompts, self.block_size, self.seed, device.device)

"""What each metric is fed for the slot model."""

from __future__ import annotations

from typing import Any

import torch

from slotlm.types_slotlm import SlotBatch, SlotLossDict, SlotPrediction
from xlm.datamodule import Tokenizer
from xlm.metrics import seq2seq_exact_match_update_fn, seq2seq_token_accuracy_update_fn, steps_taken_update_fn

__all__ = ["seq2seq_exact_match_update_fn", "seq2seq_token_accuracy_update_fn", "steps_taken_update_fn"]


def mean_metric_update_fn(batch: SlotBatch, loss_dict: SlotLossDict, tokenizer: Tokenizer | None = None):
    return {"value": loss_dict["batch_loss"]}


def length_loss_update_fn(batch: SlotBatch, loss_dict: SlotLossDict, tokenizer: Tokenizer | None = None):
    return {"value": loss_dict["length_loss"]}


def token_ce_update_fn(batch: SlotBatch, loss_dict: SlotLossDict, tokenizer: Tokenizer | None = None):
    return {"value": loss_dict["token_ce"]}


def answer_length_update_fn(batch: SlotBatch, preds: SlotPrediction, tokenizer: Tokenizer | None = None, **kwargs: Any):
    answers = preds["ids"][:, preds["output_start_idx"] :]
    return {"value": (answers != tokenizer.pad_token_id).sum(dim=1).to(torch.float)}

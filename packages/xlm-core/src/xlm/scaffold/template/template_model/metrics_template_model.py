"""Metric inputs of template_model: the arguments of each metric, from a batch and the outputs of loss or predictor.

configs/model_type/template_model.yaml assigns a function to each metric under `metric_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xlm.metrics import seq2seq_exact_match_update_fn, seq2seq_token_accuracy_update_fn


def exact_match_update_fn(
    batch: Mapping[str, Any], outputs: Mapping[str, Any], tokenizer: Any, **extra: Any
) -> dict[str, Any]:
    """Arguments of ExactMatch.update: answers and truths, each cut at its first EOS."""
    # TODO: change it if your predictor returns answers in a different form.
    return seq2seq_exact_match_update_fn(batch, outputs, tokenizer, **extra)


def token_accuracy_update_fn(
    batch: Mapping[str, Any], outputs: Mapping[str, Any], tokenizer: Any, **extra: Any
) -> dict[str, Any]:
    """Arguments of TokenAccuracy.update: answers and truths, each cut at its first EOS."""
    return seq2seq_token_accuracy_update_fn(batch, outputs, tokenizer, **extra)

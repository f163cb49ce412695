"""Metric inputs of masked diffusion: core's own fit its outputs, so these are their names."""

from __future__ import annotations

from xlm.metrics import (
    exact_match_update_fn,
    mean_loss_update_fn,
    seq2seq_exact_match_update_fn,
    seq2seq_token_accuracy_update_fn,
    steps_taken_update_fn,
    token_accuracy_update_fn,
)

__all__ = [
    "exact_match_update_fn",
    "mean_loss_update_fn",
    "seq2seq_exact_match_update_fn",
    "seq2seq_token_accuracy_update_fn",
    "steps_taken_update_fn",
    "token_accuracy_update_fn",
]

"""Batches and outputs of the insertion model; B rows, L columns, M hits, S open gaps, T answer columns.

A gap is named by the column of the token on its left: gap i lies between column i and the next real token.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Integer
from torch import Tensor

# token_type_ids
CLS_TYPE, PROMPT_TYPE, REST_TYPE = 0, 1, 2


class ILMRows(TypedDict):
    """What the network reads, and where tokens may be inserted."""

    # `[CLS] [BOS] tokens`, or `[pads] [CLS] prompt [BOS] tokens`, padded on the right.
    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # 0 CLS, 1 prompt, 2 the rest (BOS included).
    token_type_ids: Integer[Tensor, "batch length"]
    # True where nothing may be inserted to the right: CLS, prompt, padding, closed gaps of an infilling.
    constraint: Bool[Tensor, "batch length"]
    cls_position: Integer[Tensor, " batch"]
    # Real tokens in the flattened (B·L) positions, for batches whose padding is not computed.
    token_index: NotRequired[Integer[Tensor, " tokens"]]


class ILMBatch(ILMRows):
    """What the loss reads: rows with tokens missing, and which were missing where, as a list per row.

    Hit j of row b: token `target_tokens[b, j]` was deleted `target_counts[b, j]` times from gap `target_slots[b, j]`.
    Rows with fewer hits are filled up with counts of 0.
    """

    target_slots: Integer[Tensor, "batch hits"]
    target_tokens: Integer[Tensor, "batch hits"]
    target_counts: Integer[Tensor, "batch hits"]
    # How many tokens are missing: the counts of a row sum to it.
    n_drops: Integer[Tensor, " batch"]
    # Tokens of the whole sequence, the end counted as one.
    num_tokens: Integer[Tensor, " batch"]
    # The whole sequence behind BOS, right-padded, and the seed of its corruption: other corruptions for evaluation.
    clean_ids: NotRequired[Integer[Tensor, "batch rest"]]
    noise_seed: NotRequired[Integer[Tensor, " batch"]]
    # Open gaps, as indices into the flattened (B·L) columns, in order.
    slot_index: NotRequired[Integer[Tensor, " slots"]]


class ILMPredictionBatch(ILMRows):
    """What the predictor reads: rows to insert into, and the true answers apart from them."""

    # Seed of each row's random stream.
    noise_seed: NotRequired[Integer[Tensor, " batch"]]
    # True answer and EOS, right-padded with the pad token.
    target_ids: NotRequired[Integer[Tensor, "batch answer"]]


class ILMLossDict(TypedDict):
    """What the loss returns; per-row values are detached."""

    # Mean of insertion_ce + stopping_class_weight · length_loss over the rows, or over the steps in which they are
    # written. Not a likelihood; the bound on one is `nll_bound`.
    loss: Float[Tensor, ""]
    num_loss_terms: int | Tensor
    # Cross-entropy of the next insertion, 0 where nothing is missing.
    token_ce: Float[Tensor, " batch"]
    # Cross-entropy of the head on CLS.
    length_loss: Float[Tensor, " batch"]
    # One draw's estimate of an upper bound on −log p(row).
    nll_bound: Float[Tensor, " batch"]


class ILMPredictionDict(TypedDict):
    """What the predictor returns; `ids` are the rows with everything inserted, then pads."""

    ids: Integer[Tensor, "batch total"]
    attention_mask: Bool[Tensor, "batch total"]
    text: list[str]
    # Column after BOS.
    output_start_idx: Integer[Tensor, " batch"]
    # Step at which each token appeared; 0 for given ones, -1 for padding.
    insertion_order: Integer[Tensor, "batch total"]
    # Steps that inserted something.
    steps_taken: Integer[Tensor, " batch"]
    # Forward passes that a row took part in.
    network_calls: Integer[Tensor, " batch"]
    # Whether the head on CLS ended the row, rather than a limit.
    complete: Bool[Tensor, " batch"]

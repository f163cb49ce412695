"""log p of a part of each row given the tokens before it, exact or bounded, computed from training batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from xlm.errors import ConfigError
from xlm.evaluation.likelihood import IGNORE, BoundedLoss, ExactLoss, Terms, coded_ids, likelihood_terms
from xlm.masked.elbo import clean_ids
from xlm.masked.text_length import of_batch, pays_for_length
from xlm.protocols import Tokenizer


@runtime_checkable
class GreedyLoss(Protocol):
    """A loss that gives the network's most likely token at every position of its likelihood.

    `greedy_ids(batch)` is (N,), in reading order: positions of `target_ids` for an exact loss, each given the true
    tokens before it; `maskable` positions for a bounded one, while all of them are masked.
    """

    def greedy_ids(self, batch: Any) -> Tensor: ...


class Span(NamedTuple):
    """Tokens `start` … `end` − 1 of a row are scored, given those before them; counted without BOS."""

    start: int
    end: int


class Scored(NamedTuple):
    """Likelihoods of rows, and whether greedy decoding gives the scored tokens; False too if the family can't tell."""

    terms: Terms
    is_greedy: Bool[Tensor, " batch"]


@torch.no_grad()
def score_whole(loss: object, batch: Any, tokenizer: Tokenizer, num_samples: int = 1) -> Scored:
    """The likelihood of all targets of a batch: an answer and its end given its prompt.

    ConfigError if the network is given the length without a cost for it, so that lengths cannot be compared.
    """
    if not pays_for_length(batch):
        raise ConfigError(
            f"This model was trained with text_length={of_batch(batch)}: it is given the length of each text, so "
            "texts of different lengths cannot be compared. Train with text_length=learnt or modelled.",
            key="text_length",
        )
    terms = likelihood_terms(loss, batch, num_samples)
    return Scored(terms, _is_greedy(loss, batch, terms, tokenizer))


@torch.no_grad()
def score_spans(
    loss: object, batch: Any, rows: Sequence[Sequence[int]], spans: Sequence[Span], tokenizer: Tokenizer,
    num_samples: int = 1, find_greedy: bool = True,
) -> Scored:  # fmt: skip
    """Score a part of each text of a batch of the role `lm`, given the tokens before it; later tokens are not seen.

    With a bound, the rest of the block stays masked: the part is filled in any order, and the end of the text is not
    visible.

    Args:
        loss: exact, with targets in the order of the text, each given the ones before; or bounded, with `maskable` in
            its batches; tokens that are not maskable are given.
        batch: of whole texts, on the loss's device.
        rows: the texts' tokens, EOS included where a span reaches it.
        spans: the tokens that are scored.
        find_greedy: set `is_greedy` too, which costs another call of the network.

    Raises:
        ConfigError: the loss is neither, the targets of its batches are not the scored tokens, or its network was
            trained on texts of known length, which gives no likelihood for parts of a text.
    """
    if isinstance(loss, BoundedLoss):
        if "maskable" not in batch:
            raise ConfigError(
                f"{type(loss).__name__} bounds the likelihood of whole texts with their end, but not of a part of a "
                "text given the rest: its batches do not mark the tokens that are given ('maskable')."
            )
        _check_text_length(loss, batch)
        narrowed = _narrowed(batch, spans, tokenizer.mask_token_id)
        _check(coded_ids(loss, narrowed), rows, spans, loss)
        terms = Terms(loss.nll_bound(narrowed, num_samples=num_samples).double(), narrowed["num_tokens"], exact=False)
        return Scored(terms, _is_greedy(loss if find_greedy else None, narrowed, terms, tokenizer))
    if isinstance(loss, ExactLoss):
        targets = batch["target_ids"]
        is_target = targets != IGNORE
        wanted = is_target & _within(is_target, spans)
        _check(targets.masked_fill(~wanted, IGNORE), rows, spans, loss)
        nll = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
        nll[is_target] = loss.token_nll(batch).double()
        terms = Terms((nll * wanted).sum(dim=1, keepdim=True), wanted.sum(dim=1), exact=True)
        return Scored(terms, _is_greedy(loss if find_greedy else None, batch, terms, tokenizer, wanted))
    raise ConfigError(
        f"{type(loss).__name__} gives no likelihood: it has no token_nll (exact) and no nll_bound (a bound)."
    )


def _within(places: Bool[Tensor, "batch length"], spans: Sequence[Span]) -> Bool[Tensor, "batch length"]:
    """Positions of a row whose rank among the row's positions lies in its span."""
    rank = places.cumsum(dim=1) - 1
    start, end = torch.tensor(spans, device=places.device).T[..., None]
    return places & (rank >= start) & (rank < end)


def _check_text_length(loss: object, batch: Any) -> None:
    """ConfigError for a network that sees the length of each text: a text's start would depend on its end."""
    if (text_length := of_batch(batch)) != "learnt":
        raise ConfigError(
            f"This model was trained with text_length={text_length}: its network sees where a text ends, so a part of "
            f"a text has no likelihood under {type(loss).__name__}. Train with text_length=learnt instead.",
            key="text_length",
        )


def _narrowed(batch: Any, spans: Sequence[Span], mask_token_id: int) -> dict[str, Any]:
    """A batch in which only the spans may be masked, and everything after them is always masked."""
    maskable = batch["maskable"]
    kept = _within(maskable, spans)
    end = torch.tensor([span.end for span in spans], device=kept.device)[:, None]
    hidden = maskable & (maskable.cumsum(dim=1) - 1 >= end)
    return {
        **{name: value for name, value in batch.items() if name != "target_index"},
        "input_ids": batch["input_ids"].masked_fill(hidden, mask_token_id),
        "target_ids": batch["target_ids"].masked_fill(hidden, IGNORE),
        "maskable": kept,
        "hidden": hidden,
        "num_tokens": kept.sum(dim=1),
    }


def _check(
    found: Integer[Tensor, "batch length"], rows: Sequence[Sequence[int]], spans: Sequence[Span], loss: object
) -> None:
    """ConfigError unless the scored tokens are the requested ones."""
    for ids, row, span in zip(found.tolist(), rows, spans, strict=True):
        if [token for token in ids if token != IGNORE] != list(row[span.start : span.end]):
            raise ConfigError(
                f"{type(loss).__name__} does not score the tokens of a text in their order, so parts of a text have "
                "no likelihood under it."
            )


def _is_greedy(
    loss: object, batch: Any, terms: Terms, tokenizer: Tokenizer, wanted: Bool[Tensor, "batch length"] | None = None
) -> Bool[Tensor, " batch"]:
    """Whether the network's most likely tokens are right at all wanted positions of a row (None: all positions)."""
    if not isinstance(loss, GreedyLoss):
        return torch.zeros(len(terms.nll), dtype=torch.bool, device=terms.nll.device)
    targets = batch["target_ids"]
    if isinstance(loss, BoundedLoss):
        places, truth = batch["maskable"], clean_ids(batch, tokenizer.pad_token_id)
    else:
        places, truth = targets != IGNORE, targets
    best = torch.full_like(truth, IGNORE)
    best[places] = loss.greedy_ids(batch)
    return ((best == truth) | ~(places if wanted is None else wanted)).all(dim=1)

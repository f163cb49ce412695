"""log p of a part of each row given what is before it, exact or as a bound, from the batches that a loss trains on."""

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
    """A loss that says which token its network puts first at each place that its likelihood is about.

    `greedy_ids(batch)` is (N,), in reading order: places of `target_ids` for an exact loss, each given the true tokens
    before it; `maskable` places for a bounded one, while all of them are masked.
    """

    def greedy_ids(self, batch: Any) -> Tensor: ...


class Span(NamedTuple):
    """Tokens `start` … `end` − 1 of a row are scored, those before are given; counted without BOS."""

    start: int
    end: int


class Scored(NamedTuple):
    """Likelihoods of rows, and whether greedy writing gives them; False too where the family doesn't tell."""

    terms: Terms
    is_greedy: Bool[Tensor, " batch"]


@torch.no_grad()
def score_whole(loss: object, batch: Any, tokenizer: Tokenizer, num_samples: int = 1) -> Scored:
    """Everything that a batch is about: an answer and its end given its prompt.

    ConfigError where the network is told the length and nothing pays for it, so that lengths cannot be compared.
    """
    if not pays_for_length(batch):
        raise ConfigError(
            f"This model was trained with text_length={of_batch(batch)}: it is told how long each text is, so that "
            "texts of different lengths cannot be compared. Train with text_length=learnt or modelled.",
            key="text_length",
        )
    terms = likelihood_terms(loss, batch, num_samples)
    return Scored(terms, _is_greedy(loss, batch, terms, tokenizer))


@torch.no_grad()
def score_spans(
    loss: object, batch: Any, rows: Sequence[Sequence[int]], spans: Sequence[Span], tokenizer: Tokenizer,
    num_samples: int = 1,
) -> Scored:  # fmt: skip
    """A part of each text of a batch of the role `lm`, given what is before it; nothing after it is seen.

    With a bound, the rest of the block stays masked: the part is filled in any order, and nothing shows where the text
    ends.

    Args:
        loss: exact, with targets in the order of the text, each given the ones before; or bounded, with `maskable` in
            its batches, where what isn't maskable is given.
        batch: of whole texts, on the loss's device.
        rows: the texts' tokens, EOS included where a span reaches it.
        spans: which of them are scored.

    Raises:
        ConfigError: the loss is neither, its batches hold something else, or its network was trained on texts of known
            length, so that parts of a text have no likelihood under it.
    """
    if isinstance(loss, BoundedLoss):
        if "maskable" not in batch:
            raise ConfigError(
                f"{type(loss).__name__} bounds the likelihood of whole texts with their end, and of no part of a text "
                "given the rest: its batches do not say which tokens are given ('maskable')."
            )
        _check_text_length(loss, batch)
        narrowed = _narrowed(batch, spans, tokenizer.mask_token_id)
        _check(coded_ids(loss, narrowed), rows, spans, loss)
        terms = Terms(loss.nll_bound(narrowed, num_samples=num_samples).double(), narrowed["num_tokens"], exact=False)
        return Scored(terms, _is_greedy(loss, narrowed, terms, tokenizer))
    if isinstance(loss, ExactLoss):
        targets = batch["target_ids"]
        is_target = targets != IGNORE
        wanted = is_target & _within(is_target, spans)
        _check(targets.masked_fill(~wanted, IGNORE), rows, spans, loss)
        nll = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
        nll[is_target] = loss.token_nll(batch).double()
        terms = Terms((nll * wanted).sum(dim=1, keepdim=True), wanted.sum(dim=1), exact=True)
        return Scored(terms, _is_greedy(loss, batch, terms, tokenizer, wanted))
    raise ConfigError(f"{type(loss).__name__} gives no likelihood: neither token_nll (exact) nor nll_bound (a bound).")


def _within(places: Bool[Tensor, "batch length"], spans: Sequence[Span]) -> Bool[Tensor, "batch length"]:
    """Places of a row whose rank among the row's places lies in its span."""
    rank = places.cumsum(dim=1) - 1
    start, end = torch.tensor(spans, device=places.device).T[..., None]
    return places & (rank >= start) & (rank < end)


def _check_text_length(loss: object, batch: Any) -> None:
    """ConfigError for a network that is shown how long each text is: a text's beginning says nothing of its end."""
    if (text_length := of_batch(batch)) != "learnt":
        raise ConfigError(
            f"This model was trained with text_length={text_length}: its network is shown where a text ends, so that a "
            f"part of a text has no likelihood under {type(loss).__name__}. Train with text_length=learnt instead.",
            key="text_length",
        )


def _narrowed(batch: Any, spans: Sequence[Span], mask_token_id: int) -> dict[str, Any]:
    """A batch in which only the spans may be masked, and everything behind them is masked for good."""
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
    """ConfigError unless what would be scored are the tokens that were asked for."""
    for ids, row, span in zip(found.tolist(), rows, spans, strict=True):
        if [token for token in ids if token != IGNORE] != list(row[span.start : span.end]):
            raise ConfigError(
                f"{type(loss).__name__} is not about the tokens of a text in their order, so that parts of a text have "
                "no likelihood under it."
            )


def _is_greedy(
    loss: object, batch: Any, terms: Terms, tokenizer: Tokenizer, wanted: Bool[Tensor, "batch length"] | None = None
) -> Bool[Tensor, " batch"]:
    """Rows whose wanted places (None: all that the loss is about) hold the token that the network puts first."""
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

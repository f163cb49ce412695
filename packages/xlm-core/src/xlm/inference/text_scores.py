"""What `lm.score` returns: the likelihood of each text and of all of them, as `xlm eval` measures it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from xlm.data.functional import ids_of_texts
from xlm.data.hashing import noise_seeds
from xlm.decoding.infill_syntax import shortened
from xlm.errors import ConfigError
from xlm.evaluation.continuations import Span, score_spans
from xlm.evaluation.likelihood import (
    Description,
    LikelihoodEstimator,
    Measured,
    Terms,
    description,
    likelihood_terms,
    num_bytes,
)
from xlm.inference.prompts import warn_of_unknown_words
from xlm.inference.scorer import Pair, Scorer, split_ids, windows
from xlm.inference.writer import joined

if TYPE_CHECKING:
    from xlm.inference.trained import TrainedModel

_SHOWN = 20  # rows of a table in a notebook


@dataclass(frozen=True)
class TextScore:
    """−log p of one text, exact or an upper bound.

    Args:
        text: the scored text.
        prompt: the text before it, which is given; None without one.
        nll: nats for the whole text and its end.
        standard_error: of `nll`, over the draws of the bound; 0 if it is exact, NaN for a single draw.
        num_tokens: tokens of the text that were scored, its end included.
        num_bytes: UTF-8 bytes of the text; None if the tokens are only labels of a synthetic task.
        exact: False if `nll` estimates an upper bound.
    """

    text: str
    prompt: str | None
    nll: float
    standard_error: float
    num_tokens: int
    num_bytes: int | None
    exact: bool

    @property
    def nll_per_token(self) -> float:
        """Nats per token."""
        return self.nll / self.num_tokens if self.num_tokens else math.nan

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return math.exp(self.nll_per_token)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte of the text; None without bytes."""
        return self.nll / math.log(2) / self.num_bytes if self.num_bytes else None

    @property
    def kind(self) -> str:
        """`exact` or `upper bound`."""
        return "exact" if self.exact else "upper bound"

    def __str__(self) -> str:
        within = f" ± {self.standard_error:.2g}" if self.standard_error > 0 else ""
        parts = [f"{self.nll:.4g}{within} nats", f"{self.nll_per_token:.4g} per token"]
        parts += [] if self.bits_per_byte is None else [f"{self.bits_per_byte:.4g} bits per byte"]
        return ", ".join([*parts, self.kind])


class Scores(Sequence[TextScore]):
    """The score of each text, in order, and the likelihood of all of them together.

    Attributes:
        total: the likelihood of all texts with its standard error over texts, as `xlm eval` reports it for a loader;
            None without texts.
    """

    def __init__(self, scores: Sequence[TextScore], total: Measured | None) -> None:
        self._scores = tuple(scores)
        self.total = total

    @overload
    def __getitem__(self, index: int) -> TextScore: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[TextScore, ...]: ...

    def __getitem__(self, index: int | slice) -> TextScore | tuple[TextScore, ...]:
        return self._scores[index]

    def __len__(self) -> int:
        return len(self._scores)

    def __iter__(self) -> Iterator[TextScore]:
        return iter(self._scores)

    @property
    def kind(self) -> str | None:
        """`exact` or `upper bound`; None without texts."""
        return None if self.total is None else self.total.kind

    def values(self) -> dict[str, tuple[float, float]]:
        """Name → (value, standard error over texts) for all texts: NLL per token and text, perplexity, bits per byte.

        The names are those of `xlm eval`: a likelihood that is not the model's own has another name. NaN is the
        standard error for a single text.
        """
        return {} if self.total is None else self.total.values()

    def record(self) -> dict[str, Any]:
        """The likelihood of all texts as in the record of `xlm eval`, JSON-able; empty without texts."""
        return {} if self.total is None else self.total.record()

    def __repr__(self) -> str:
        return f"Scores({self._caption()})"

    def _caption(self) -> str:
        if self.total is None:
            return "0 texts"
        if len(self) == 1:
            return f"1 text: {self[0]}"
        parts = [f"{len(self):,} texts", f"{self.total.likelihood.num_tokens:,} tokens"]
        for name, (value, error) in self.values().items():
            within = "" if math.isnan(error) else f" ± {error:.2g}"
            parts.append(f"{name.replace('_', ' ')} {value:.4g}{within}")
        return ", ".join([*parts, self.total.kind])

    def _repr_html_(self) -> str:
        shown = self[:_SHOWN]
        columns = {
            "prompt": [shortened(score.prompt or "") for score in shown],
            "text": [shortened(score.text) for score in shown],
            "nats": [f"{score.nll:.2f}" for score in shown],
            "±": ["" if score.exact or math.isnan(score.standard_error) else f"{score.standard_error:.2f}"
                  for score in shown],
            "tokens": [str(score.num_tokens) for score in shown],
            "nats per token": [f"{score.nll_per_token:.3f}" for score in shown],
            "bits per byte": ["" if score.bits_per_byte is None else f"{score.bits_per_byte:.3f}" for score in shown],
        }  # fmt: skip
        columns = {name: cells for name, cells in columns.items() if name == "text" or any(cells)}
        rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        lines = ["".join(map(_cell, row, columns, [number == 0] * len(row))) for number, row in enumerate(rows)]
        more = f"<p>… and {len(self) - _SHOWN:,} more</p>" if len(self) > _SHOWN else ""
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>{body}</table>{more}<p>{escape(self._caption())}</p>"


def _cell(text: str, column: str, is_head: bool) -> str:
    """A cell of a table: words on the left, figures on the right."""
    tag, side = "th" if is_head else "td", "left" if column in ("prompt", "text") else "right"
    return f'<{tag} style="text-align:{side}">{escape(text)}</{tag}>'


@dataclass(frozen=True)
class _Row:
    """One row of a batch: a text, or one window of it.

    `number`: that of the window. `whole`: the text and its end, as in the data of training.
    """

    text: int
    number: int
    pair: Pair
    whole: bool


def score_texts(
    lm: TrainedModel,
    texts: Sequence[str],
    prompts: Sequence[str] | None = None,
    *,
    num_samples: int = 8,
    seed: int = 0,
    batch_size: int = 64,
    with_end: bool = True,
) -> Scores:
    """Score texts; see `TrainedModel.score`."""
    for name, value in {"num_samples": num_samples, "batch_size": batch_size}.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}, and must be at least 1.", key=name)
    if prompts is not None and len(prompts) != len(texts):
        raise ConfigError(
            f"There are {len(prompts)} prompts for {len(texts)} texts. Give one prompt for each text, or one for all.",
            key="prompts",
        )
    warn_of_unknown_words(lm.tokenizer, [*texts, *(prompts or [])])
    start = time.monotonic()
    scorer = Scorer(lm, num_samples, seed)
    rows = _rows(scorer, texts, prompts, with_end)
    draws = torch.zeros(len(texts), 1 if scorer.is_exact else num_samples, dtype=torch.float64)
    tokens = torch.zeros(len(texts), dtype=torch.int64)
    described = Description()
    with torch.inference_mode():
        for batch in _batches(rows, batch_size):
            terms, described = _terms(scorer, batch, texts)
            place = torch.tensor([row.text for row in batch])
            draws.index_add_(0, place, terms.nll.cpu().double())
            tokens.index_add_(0, place, terms.num_tokens.cpu())
    if not texts:
        return Scores((), None)
    sizes = num_bytes(texts) if getattr(lm.tokenizer, "is_text", True) else None
    estimator = LikelihoodEstimator()
    estimator.update(Terms(draws, tokens, scorer.is_exact), sizes)
    total = Measured(estimator.compute(), described, time.monotonic() - start, num_decoded=None if sizes is None else 0)
    errors = _errors(draws, scorer.is_exact)
    scores = [
        TextScore(
            text,
            None if prompts is None else prompts[n],
            float(draws[n].mean()),
            errors[n],
            int(tokens[n]),
            None if sizes is None else int(sizes[n]),
            scorer.is_exact,
        )
        for n, text in enumerate(texts)
    ]
    return Scores(scores, total)


def _errors(draws: torch.Tensor, is_exact: bool) -> list[float]:
    """The standard error of the mean of each row's draws; NaN for a single draw of a bound."""
    count = draws.shape[1]
    if is_exact or count == 1:
        return [0.0 if is_exact else math.nan] * len(draws)
    errors: list[float] = (draws.std(dim=1) / count**0.5).tolist()
    return errors


def _rows(scorer: Scorer, texts: Sequence[str], prompts: Sequence[str] | None, with_end: bool) -> list[_Row]:
    """The rows of all texts; ConfigError for one that the model cannot score."""
    if scorer.role != "lm":
        return _answers(scorer, texts, prompts, with_end)
    limit, rows = scorer.max_length, list[_Row]()
    for n, (text, ids) in enumerate(zip(texts, ids_of_texts(list(texts), scorer.lm.tokenizer), strict=True)):
        prompt = "" if prompts is None else prompts[n]
        if with_end and not prompt and (limit is None or len(ids) + 1 <= limit):
            rows.append(_Row(n, 0, Pair((), tuple(ids), ends=True), whole=True))
            continue
        whole = joined(prompt, text, scorer.lm.tokenizer)
        given, scored = split_ids(prompt, whole[len(prompt) :], scorer.lm.tokenizer)
        pairs = windows(given, scored, limit, with_end)
        rows += [_Row(n, number, pair, whole=False) for number, pair in enumerate(pairs)]
    return rows


def _answers(scorer: Scorer, texts: Sequence[str], prompts: Sequence[str] | None, with_end: bool) -> list[_Row]:
    if prompts is None:
        raise ConfigError(
            "This model was trained on answers to prompts, so a text is scored given its prompt: "
            "lm.score(answers, prompts).",
            key="prompts",
        )
    if not with_end:
        raise ConfigError(
            "with_end=False is only for models of whole texts: an answer is scored with its end.", key="with_end"
        )
    given, scored = (ids_of_texts(list(each), scorer.lm.tokenizer) for each in (prompts, texts))
    for named, limit, key, rows in (
        (prompts, scorer.max_context, "input_block_size", given),
        (texts, scorer.max_length, "block_size - 2", scored),
    ):
        for text, ids in zip(named, rows, strict=True):
            if limit is not None and len(ids) > limit:
                what = "prompt" if named is prompts else "answer"
                raise ConfigError(
                    f"The {what} {shortened(text)!r} has {len(ids)} tokens, and this model takes at most {limit} "
                    f"({key})."
                )
    pairs = [Pair(tuple(prompt), tuple(answer), ends=True) for prompt, answer in zip(given, scored, strict=True)]
    return [_Row(n, 0, pair, whole=True) for n, pair in enumerate(pairs)]


def _batches(rows: Sequence[_Row], batch_size: int) -> Iterator[list[_Row]]:
    """Rows of one kind and similar length; the values don't depend on it, but short rows then get no padding."""
    for whole in (True, False):
        of_kind = [row for row in rows if row.whole == whole]
        of_kind.sort(key=lambda row: len(row.pair.context) + len(row.pair.continuation))
        yield from (of_kind[start : start + batch_size] for start in range(0, len(of_kind), batch_size))


def _terms(scorer: Scorer, rows: Sequence[_Row], texts: Sequence[str]) -> tuple[Terms, Description]:
    """The likelihood of a batch of rows of one kind, and its description."""
    # The seeds of `xlm eval` for the row with the number of the text; further windows have their own.
    seeds = [int(noise_seeds(scorer.seed, row.number, np.array([row.text]))[0]) for row in rows]
    of_prompts = scorer.role != "lm"
    examples: list[dict[str, Any]] = [
        {
            "input_ids": [*(() if of_prompts else row.pair.context), *row.pair.continuation],
            "noise_seed": seed,
            **({"prompt_ids": list(row.pair.context)} if of_prompts else {}),
        }
        for row, seed in zip(rows, seeds, strict=True)
    ]
    batch = scorer.batch(examples)
    if rows[0].whole:
        return likelihood_terms(scorer.loss, batch, scorer.num_samples), description(scorer.loss, batch)
    eos = scorer.lm.tokenizer.eos_token_id
    ids = [
        [*example["input_ids"], *([eos] if row.pair.ends else [])] for example, row in zip(examples, rows, strict=True)
    ]
    spans = [Span(len(row.pair.context), len(each)) for row, each in zip(rows, ids, strict=True)]
    try:
        scored = score_spans(scorer.loss, batch, ids, spans, scorer.lm.tokenizer, scorer.num_samples, find_greedy=False)
    except ConfigError as error:
        name = scorer.lm.config.get("model_name")
        first, text = rows[0], shortened(texts[rows[0].text])
        if scorer.max_length is not None and len(ids[0]) >= scorer.max_length:
            what = f"has more tokens than the {scorer.max_length - 1} that {name} scores at once"
        else:
            what = f"cannot be scored by {name} " + ("without its end" if not first.pair.ends else "after a prompt")
        raise ConfigError(f"The text {text!r} {what}. {error}", key=error.key) from error
    return scored.terms, description(scorer.loss, batch)

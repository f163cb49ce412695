"""Scores pairs of given and scored tokens with a trained model of any family: exact or bounded log-likelihoods."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from xlm.errors import ConfigError
from xlm.evaluation.continuations import Scored, Span, score_spans, score_whole
from xlm.evaluation.likelihood import BoundedLoss, description, gives_likelihood
from xlm.masked.text_length import of_batch
from xlm.utils.instantiate import components, instantiate

if TYPE_CHECKING:
    from xlm.inference.trained import TrainedModel

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Score:
    """log p of a continuation in nats, exact or a lower bound, with the bound's standard error over its draws.

    `standard_error` is 0 if exact, NaN for a single draw.
    """

    log_likelihood: float
    is_greedy: bool
    standard_error: float
    num_tokens: int


@dataclass(frozen=True)
class Pair:
    """The given tokens and the scored tokens; `ends`: the EOS after them is scored too."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    ends: bool = False


class Scorer:
    """Scores with a trained model in batches; a pair's score does not depend on its batch or on the order.

    A model of whole texts (role `lm`) scores `[BOS] context continuation`. A model of prompts and answers (role
    `seq2seq`) scores an answer and its end, for any `ends`.

    Args:
        lm: a model whose loss gives a likelihood.
        num_samples: draws of a bound for each pair; each is the mean over several maskings.
        seed: of the draws, together with the pair itself.
        precision: of the network's arithmetic; sums are always float64.

    Raises:
        ConfigError: the loss gives no likelihood, or the model has no such role.
    """

    def __init__(self, lm: TrainedModel, num_samples: int = 8, seed: int = 0, precision: Precision = "fp32") -> None:
        loss = lm.harness.loss_function
        if not gives_likelihood(loss):
            raise ConfigError(
                f"{type(loss).__name__} gives no likelihood, so this model can only generate text, not score it."
            )
        self.lm, self.loss = lm, loss
        self.num_samples, self.seed, self.precision = num_samples, seed, precision
        self.role = "lm" if lm.continues else "seq2seq"
        node = (lm.config.get("collators") or {}).get(self.role)
        if node is None:
            raise ConfigError(f"The model has no collator for the role '{self.role}', so it cannot score texts.")
        self._described = description(loss)
        with components(tokenizer=lm.tokenizer, noise_schedule=lm.harness.noise_schedule):
            self._collate = instantiate(node)

    @property
    def is_exact(self) -> bool:
        """Whether scores are log p itself rather than a lower bound."""
        return not isinstance(self.loss, BoundedLoss)

    @property
    def of(self) -> str:
        """What the likelihood covers, in words."""
        return self._described.of

    @property
    def max_length(self) -> int | None:
        """The most tokens of context and continuation together (or of an answer); None for no limit."""
        block = self.lm.config.get("block_size")
        if block is None:
            return None
        return int(block) - 1 if self.role == "lm" else int(block) - 2

    @property
    def max_context(self) -> int | None:
        """The most tokens of a context; None for no limit."""
        limit = self.max_length if self.role == "lm" else self.lm.config.get("input_block_size")
        return None if limit is None else int(limit)

    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """One score per pair, all in one batch.

        Raises:
            ConfigError: a pair is longer than the model can read, or the family cannot score such pairs.
        """
        if not pairs:
            return []
        for pair in pairs:
            self._check_length(pair)
        with torch.inference_mode(), self._arithmetic():
            terms, is_greedy = self._scored(pairs)
        mean = terms.nll.mean(dim=1)
        error = torch.zeros_like(mean) if terms.exact else terms.nll.std(dim=1) / terms.nll.shape[1] ** 0.5
        rows = zip(mean.tolist(), is_greedy.tolist(), error.tolist(), terms.num_tokens.tolist(), strict=True)
        return [Score(-nll, greedy, error, count) for nll, greedy, error, count in rows]

    def _scored(self, pairs: Sequence[Pair]) -> Scored:
        if self.role == "seq2seq":
            examples = [self._example(pair, pair.continuation, prompt_ids=list(pair.context)) for pair in pairs]
            return score_whole(self.loss, self.batch(examples), self.lm.tokenizer, self.num_samples)
        texts = [(*pair.context, *pair.continuation) for pair in pairs]
        batch = self.batch([self._example(pair, text) for pair, text in zip(pairs, texts, strict=True)])
        whole_texts = all(pair.ends and not pair.context for pair in pairs)
        if not self.is_exact and whole_texts and ("maskable" not in batch or of_batch(batch) == "modelled"):
            return score_whole(self.loss, batch, self.lm.tokenizer, self.num_samples)
        eos = self.lm.tokenizer.eos_token_id
        rows = [[*text, *([eos] if pair.ends else [])] for pair, text in zip(pairs, texts, strict=True)]
        spans = [Span(len(pair.context), len(row)) for pair, row in zip(pairs, rows, strict=True)]
        return score_spans(self.loss, batch, rows, spans, self.lm.tokenizer, self.num_samples)

    def _example(self, pair: Pair, ids: Sequence[int], **more: Any) -> dict[str, Any]:
        return {"input_ids": list(ids), "noise_seed": seed_of(self.seed, pair), **more}

    def batch(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The training batch of these examples, on the model's device."""
        device = self.lm.device
        batch = self._collate(examples)
        self._described = description(self.loss, batch)
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

    def _check_length(self, pair: Pair) -> None:
        limit = self.max_length
        used = len(pair.continuation) + (len(pair.context) + pair.ends if self.role == "lm" else 0)
        if limit is not None and used > limit:
            what = "context and continuation" if self.role == "lm" else "the answer"
            raise ConfigError(f"A request has {used} tokens of {what}, but this model takes at most {limit}.")

    def _arithmetic(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.lm.device.type, dtype=torch.bfloat16)


def seed_of(seed: int, pair: Pair) -> int:
    """The random stream of a pair: 62 bits of a hash of its context, independent of order and batch.

    All continuations of a context get the same masks, since their differences then vary less than their values.
    """
    text = repr((seed, pair.context))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def windows(context: Sequence[int], ids: Sequence[int], size: int | None, ends: bool = False) -> Iterator[Pair]:
    """Pairs that score every token of `ids` once (and the end, if `ends`), each with as much context as fits.

    No pair is longer than `size`, including the end; a context is cut on the left, but keeps its last token.
    """
    whole: list[int | None] = [*context, *ids, *([None] if ends else [])]  # None is the end
    size = len(whole) if size is None else size
    done = len(context)
    while done < len(whole):
        end = min(len(whole), done + max(1, size - min(done, 1)))
        start = min(done, max(0, end - size))
        given, scored = (
            [token for token in part if token is not None] for part in (whole[start:done], whole[done:end])
        )
        yield Pair(tuple(given), tuple(scored), ends=whole[end - 1] is None)
        done = end


def split_ids(context: str, continuation: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens of both texts together, split at the end of the context; blanks at its end belong to the continuation."""
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    whole = list(tokenizer(stripped + continuation, add_special_tokens=False)["input_ids"])
    given = list(tokenizer(stripped, add_special_tokens=False)["input_ids"])
    # A token across the border belongs to the continuation, which is only empty if its text is.
    cut = min(len(given), len(whole) - bool(continuation.strip()))
    return whole[:cut], whole[cut:]

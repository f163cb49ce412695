"""Requests of lm-evaluation-harness for any family: scores of continuations, and `generate_until`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xlm.errors import ConfigError
from xlm.evaluation.continuations import Scored, Span, score_spans, score_whole
from xlm.evaluation.likelihood import BoundedLoss, description, gives_likelihood
from xlm.inference.trained import TrainedModel
from xlm.masked.text_length import of_batch
from xlm.utils.instantiate import components, instantiate

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
                f"{type(loss).__name__} gives no likelihood, so lm-eval can only generate text with this model."
            )
        self.lm, self.loss = lm, loss
        self.num_samples, self.seed, self.precision = num_samples, seed, precision
        self.role = "lm" if lm.continues else "seq2seq"
        node = (lm.config.get("collators") or {}).get(self.role)
        if node is None:
            raise ConfigError(f"The model has no collator for the role '{self.role}', so lm-eval cannot score with it.")
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
            return score_whole(self.loss, self._batch(examples), self.lm.tokenizer, self.num_samples)
        texts = [(*pair.context, *pair.continuation) for pair in pairs]
        batch = self._batch([self._example(pair, text) for pair, text in zip(pairs, texts, strict=True)])
        whole_texts = all(pair.ends and not pair.context for pair in pairs)
        if not self.is_exact and whole_texts and ("maskable" not in batch or of_batch(batch) == "modelled"):
            return score_whole(self.loss, batch, self.lm.tokenizer, self.num_samples)
        eos = self.lm.tokenizer.eos_token_id
        rows = [[*text, *([eos] if pair.ends else [])] for pair, text in zip(pairs, texts, strict=True)]
        spans = [Span(len(pair.context), len(row)) for pair, row in zip(pairs, rows, strict=True)]
        return score_spans(self.loss, batch, rows, spans, self.lm.tokenizer, self.num_samples)

    def _example(self, pair: Pair, ids: Sequence[int], **more: Any) -> dict[str, Any]:
        return {"input_ids": list(ids), "noise_seed": seed_of(self.seed, pair), **more}

    def _batch(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
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


# Sampling options in lm-eval's tasks that a sampler may have too.
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
# The names of the length limit in tasks; the first one has priority.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
DEFAULT_LENGTH = 256


@dataclass(frozen=True)
class Wanted:
    """A request in the form that this model needs.

    Args:
        context: the end of the given context, as much as the model can read.
        until: strings before which the text ends.
        max_tokens: the most tokens of the text.
        options: of the sampler, sorted; requests with equal options run together.
        truncated: whether the context lost its start.
    """

    context: str
    until: tuple[str, ...]
    max_tokens: int
    options: tuple[tuple[str, Any], ...]
    truncated: bool


def wanted(
    lm: TrainedModel, context: str, asked: dict[str, Any], max_gen_toks: int | None, sampler: dict[str, Any]
) -> Wanted:
    """Convert a request; ConfigError for options that no model supports.

    Args:
        asked: a task's `generation_kwargs`.
        max_gen_toks: used if the task doesn't set it; None for lm-eval's 256.
        sampler: options that override the task's.
    """
    until = asked.get("until") or ()
    until = tuple(s for s in ((until,) if isinstance(until, str) else until) if s)
    length = next((asked[name] for name in LENGTHS if asked.get(name) is not None), max_gen_toks or DEFAULT_LENGTH)
    if int(length) < 1:
        raise ConfigError(f"max_gen_toks of a task is {length}, and must be at least 1.")
    room = _room(lm)
    # If both are long, context and text get half of the block each.
    length = int(length) if room is None else min(int(length), max(room // 2, room - _count(lm, context)))
    limit = lm.config.get("input_block_size") if not lm.continues else None if room is None else room - length
    kept = context if limit is None else last_tokens(lm.tokenizer, context, int(limit))
    options = {**_sampling(asked, lm.options), **sampler}
    return Wanted(kept, until, length, tuple(sorted(options.items())), truncated=kept != context)


def write(lm: TrainedModel, batch: Sequence[Wanted], seed: int) -> list[str]:
    """Generate the texts of requests with the same options, each cut to its length and at its first stop string."""
    options = dict(batch[0].options)
    own_seed = options.pop("seed", None)
    samples = lm.samples(
        [one.context for one in batch],
        mode="continue" if lm.continues else "answer",
        seed=seed if own_seed is None else int(own_seed),
        batch_size=len(batch),
        **options,
    )
    return [
        cut(first_tokens(lm.tokenizer, sample.text, one.max_tokens), one.until)
        for sample, one in zip(samples, batch, strict=True)
    ]


def cut(text: str, until: Iterable[str]) -> str:
    """A text up to the first of the strings."""
    return text[: min((place for stop in until if (place := text.find(stop)) >= 0), default=len(text))]


def first_tokens(tokenizer: Any, text: str, count: int) -> str:
    """A text's first tokens; the whole text if it has no more."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= count else str(tokenizer.decode(ids[:count], skip_special_tokens=True))


def last_tokens(tokenizer: Any, text: str, count: int) -> str:
    """The end of a text, with at most `size` tokens when it is tokenized again."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    kept = text
    # A tokenizer may split the end alone into more tokens than before.
    for wanted_count in range(count, -1, -1):
        if len(ids) <= wanted_count:
            return kept
        kept = str(tokenizer.decode(ids[len(ids) - wanted_count :], skip_special_tokens=True)) if wanted_count else ""
        if len(tokenizer(kept, add_special_tokens=False)["input_ids"]) <= count:
            return kept
    return ""


def _sampling(asked: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Greedy unless a task samples; options that the sampler does not have are checked by the sampler."""
    temperature = float(asked.get("temperature") or 0.0)
    if asked.get("do_sample") is False:
        temperature = 0.0
    elif asked.get("do_sample") and asked.get("temperature") is None:
        temperature = 1.0
    said = {**{name: asked[name] for name in SAMPLING if asked.get(name) is not None}, "temperature": temperature}
    return {name: value for name, value in said.items() if name in options}


def _count(lm: TrainedModel, text: str) -> int:
    return len(lm.tokenizer(text, add_special_tokens=False)["input_ids"])


def _room(lm: TrainedModel) -> int | None:
    """Tokens of context and text together after BOS, for a model of whole texts; None for no limit."""
    block = lm.config.get("block_size")
    return None if block is None or not lm.continues else int(block) - 1

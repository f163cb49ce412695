"""Requests of lm-evaluation-harness to generate text, as a sampler of any family takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xlm.errors import ConfigError
from xlm.inference.trained import TrainedModel

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

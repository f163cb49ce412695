"""`generate_until` for any family: contexts cut to what the model can read, texts cut where a task says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xlm.errors import ConfigError
from xlm.trained import TrainedModel

# What lm-eval's tasks say about sampling, where a sampler has it too.
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
# Names under which tasks say how much may be written, the first goes before the others.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
DEFAULT_LENGTH = 256


@dataclass(frozen=True)
class Wanted:
    """A request as this model gets it.

    Args:
        context: as much of its end as the model reads.
        until: strings before which the text ends.
        max_tokens: of the text.
        options: of the sampler, sorted; requests of equal ones run together.
        truncated: whether the context has lost its beginning.
    """

    context: str
    until: tuple[str, ...]
    max_tokens: int
    options: tuple[tuple[str, Any], ...]
    truncated: bool


def wanted(
    lm: TrainedModel, context: str, asked: dict[str, Any], max_gen_toks: int | None, sampler: dict[str, Any]
) -> Wanted:
    """What a request asks for; ConfigError for what no model here does.

    Args:
        asked: a task's `generation_kwargs`.
        max_gen_toks: where the task doesn't say it; None for lm-eval's 256.
        sampler: options that go before the task's.
    """
    until = asked.get("until") or ()
    until = tuple(s for s in ((until,) if isinstance(until, str) else until) if s)
    length = next((asked[name] for name in LENGTHS if asked.get(name) is not None), max_gen_toks or DEFAULT_LENGTH)
    if int(length) < 1:
        raise ConfigError(f"A task asks for {length} tokens (max_gen_toks), and must ask for at least 1.")
    room = _room(lm)
    # Where both are long, context and text get half of the block each.
    length = int(length) if room is None else min(int(length), max(room // 2, room - _count(lm, context)))
    limit = lm.config.get("input_block_size") if not lm.continues else None if room is None else room - length
    kept = context if limit is None else last_tokens(lm.tokenizer, context, int(limit))
    options = {**_sampling(asked, lm.options), **sampler}
    return Wanted(kept, until, length, tuple(sorted(options.items())), truncated=kept != context)


def write(lm: TrainedModel, batch: Sequence[Wanted], seed: int) -> list[str]:
    """The texts of requests that have the same options, each cut to its length and at its first stop."""
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
    """A text's first tokens; the text itself where it has no more."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= count else str(tokenizer.decode(ids[:count], skip_special_tokens=True))


def last_tokens(tokenizer: Any, text: str, count: int) -> str:
    """A text's end of at most so many tokens, as the text itself is read again."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    kept = text
    # A tokenizer may read the end alone as more tokens than it was before.
    for wanted_count in range(count, -1, -1):
        if len(ids) <= wanted_count:
            return kept
        kept = str(tokenizer.decode(ids[len(ids) - wanted_count :], skip_special_tokens=True)) if wanted_count else ""
        if len(tokenizer(kept, add_special_tokens=False)["input_ids"]) <= count:
            return kept
    return ""


def _sampling(asked: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Greedy unless a task samples; what a sampler doesn't know is the sampler's own affair."""
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
    """Tokens of context and text together behind BOS, for a model of whole texts; None for no limit."""
    block = lm.config.get("block_size")
    return None if block is None or not lm.continues else int(block) - 1

"""Options that predictors of all families have: tokens never to produce, and a warning for options without effect."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from xlm.errors import ConfigError
from xlm.protocols import Tokenizer
from xlm.sampling import LogitsSampler
from xlm.utils.rank_zero import RankedLogger

log = RankedLogger(__name__, rank_zero_only=True)

_said: set[str] = set()
_is_silent: ContextVar[bool] = ContextVar("unread_options_are_not_said", default=False)


def suppressed_ids(
    tokenizer: Tokenizer, suppressed_tokens: Iterable[str] = (), num_logits: int | None = None
) -> list[int]:
    """Ids that never belong into an answer: mask, pad, BOS, CLS and SEP (unless one of them is EOS), and those named.

    Args:
        num_logits: logits of the network; those beyond the tokenizer's ids are padding of the vocabulary.

    Raises:
        ConfigError: the tokenizer doesn't know one of the names.
    """
    names = ("mask", "pad", "bos", "cls", "sep")
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    special: set[int] = {number for number in ids if number is not None} - {tokenizer.eos_token_id}
    for token in suppressed_tokens:
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or tokenizer.convert_ids_to_tokens(number) != token:
            raise ConfigError(f"predictor.suppressed_tokens names {token!r}, which the tokenizer doesn't know.")
        special.add(number)
    if num_logits is not None:
        special |= set(range(tokenizer.full_vocab_size, num_logits))
    return sorted(special)


def say_unread(predictor: type, given: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, str]:
    """Say once of each option without effect that it has none; options at their default are not mentioned.

    A predictor's constructor keeps the result as `self.unread`: `xlm sweep_sampler` refuses to vary what is in it.

    Args:
        predictor: the class whose constructor calls, for its defaults.
        given: the values of its options; others are passed over.
        reasons: option → why it has no effect beside the other options, whatever its value.

    Returns:
        The reasons for the options that the constructor has.
    """
    defaults = {name: p.default for name, p in inspect.signature(predictor).parameters.items()}
    unread = {name: reason for name, reason in reasons.items() if name in defaults}
    for name, reason in unread.items():
        text = f"predictor.{name}={given[name]} has no effect: {reason}."
        if given[name] != defaults[name] and text not in _said and not _is_silent.get():
            _said.add(text)
            log.warning(text)
    return unread


@contextmanager
def unsaid() -> Iterator[None]:
    """Silences these messages for predictors made inside the block."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


def unread_filters(sampler: LogitsSampler) -> dict[str, str]:
    """Why options of a sampler of logits have no effect: the most likely token is the same under all of them."""
    unread: dict[str, str] = {}
    if sampler.top_k == 1:
        unread |= dict.fromkeys(("temperature", "top_p", "min_p"), "top_k=1 always takes the most likely token")
    if sampler.temperature == 0:
        unread |= dict.fromkeys(("top_k", "top_p", "min_p"), "temperature=0 always takes the most likely token")
    return unread

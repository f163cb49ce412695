"""Generated texts up to the first EOS, the units in which they are counted, and numbers with a standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from xlm.data.rows import Rows
from xlm.data.tokenizers import fingerprint
from xlm.errors import DataError
from xlm.evaluation.likelihood import ratio
from xlm.metrics import IGNORED, rows_from
from xlm.protocols import call_at

Tokens = Sequence[int]


class Estimate(NamedTuple):
    """A value over `n` texts.

    `value` is None if undefined (all texts are empty), `se` is None if the error is unknown.
    """

    value: float | None
    se: float | None
    n: int

    def record(self) -> dict[str, Any]:
        """In the format of metrics in the record of an evaluation."""
        return {"value": self.value, "se": self.se, "n": self.n, "se_over": None if self.se is None else "examples"}


def ratio_of(part: ArrayLike, whole: ArrayLike) -> Estimate:
    """Σ part / Σ whole over independent texts, each with its part and its whole; empty ones count in n."""
    a, b = (torch.as_tensor(np.asarray(values, dtype=np.float64)) for values in (part, whole))
    if len(b) == 0 or float(b.sum()) == 0:
        return Estimate(None, None, len(b))
    value, error = ratio(a, b)
    return Estimate(value, None if math.isnan(error) else error, len(b))


def mean_of(values: ArrayLike) -> Estimate:
    """The mean of one number per text."""
    found = np.asarray(values, dtype=np.float64)
    return ratio_of(found, np.ones_like(found))


@dataclass(frozen=True)
class WrittenText:
    """One text.

    Args:
        text: without special tokens, otherwise unchanged.
        tokens: as generated, without special ones; None for a text from a file.
        ended: whether the model ended it (False: it was cut at the maximum length); None if unknown.
    """

    text: str
    tokens: tuple[int, ...] | None = None
    ended: bool | None = None


def written_texts(predictions: Mapping[str, Any], tokenizer: Any) -> list[WrittenText]:
    """The texts of a predictor's outputs, one for each row, including empty ones.

    From `ids` after `output_start_idx` if present, otherwise from `text`. A row has ended if it has an EOS, or if
    `complete`, (B,), is True for it.
    """
    if "ids" not in predictions:
        texts = [cut_text(text, tokenizer) for text in predictions["text"]]
        return [WrittenText(text, tuple(_encode(text, tokenizer))) for text in texts]
    ids, start = torch.as_tensor(predictions["ids"]), predictions.get("output_start_idx")
    rows = ids if start is None else rows_from(ids, start, tokenizer.pad_token_id)
    complete = predictions.get("complete")
    ends = [None] * len(rows) if complete is None else torch.as_tensor(complete).tolist()
    return [_written(row, end, start is None, tokenizer) for row, end in zip(rows.tolist(), ends, strict=True)]


def _written(row: list[int], complete: bool | None, is_whole: bool, tokenizer: Any) -> WrittenText:
    special, eos = {*tokenizer.all_special_ids, IGNORED}, tokenizer.eos_token_id
    if is_whole:
        # A token at the start of a row that is both BOS (or padding) and EOS does not end it.
        is_both = eos in (tokenizer.bos_token_id, tokenizer.pad_token_id)
        opening = special if is_both else special - {eos}
        row = row[next((place for place, token in enumerate(row) if token not in opening), len(row)) :]
    has_end = eos in row
    tokens = tuple(token for token in (row[: row.index(eos)] if has_end else row) if token not in special)
    return WrittenText(decoded(tokens, tokenizer), tokens, has_end if complete is None else complete)


def decoded(tokens: Sequence[int], tokenizer: Any) -> str:
    """The text of tokens, including blanks."""
    if not getattr(tokenizer, "is_fast", False):
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def cut_text(text: str, tokenizer: Any) -> str:
    """A text up to the first EOS that it spells out, without other special tokens; one at the start doesn't end it."""
    specials = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
    while opening := next((token for token in specials if text.startswith(token)), None):
        if opening == tokenizer.eos_token and opening != tokenizer.bos_token:
            break
        text = text[len(opening) :]
    text = text.partition(tokenizer.eos_token)[0] if tokenizer.eos_token else text
    for token in specials:
        text = text.replace(token, "")
    return text


def _encode(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@contextmanager
def collecting_texts(predictor: Any, tokenizer: Any, loaders: Sequence[str]) -> Iterator[dict[str, list[WrittenText]]]:
    """Collects the texts that `predictor.predict` generates in this block for these loaders, by loader."""
    texts: dict[str, list[WrittenText]] = {name: [] for name in loaders}
    if not loaders or predictor is None:  # prediction will raise the error
        yield texts
        return
    predict, own = predictor.predict, predictor.__dict__.get("predict")

    def watched(batch: Any, batch_idx: Any = None, dataloader_idx: Any = None, dataloader_name: Any = None) -> Any:
        predictions = call_at(predict, batch, batch_idx, dataloader_idx, dataloader_name)
        if dataloader_name in texts:
            texts[dataloader_name] += written_texts(predictions, tokenizer)
        return predictions

    # Set on the instance, as in `counting_calls`.
    predictor.__dict__["predict"] = watched
    try:
        yield texts
    finally:
        del predictor.__dict__["predict"]
        if own is not None:
            predictor.__dict__["predict"] = own


_AT_ONCE = 1000


class Words:
    """Words separated by whitespace, each as a number that is the same in every process."""

    name = "words"

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def encode(self, texts: Iterable[str]) -> list[Tokens]:
        """Numbers below 2^64 for each text."""
        return [[self._number(word) for word in text.split()] for text in texts]

    def _number(self, word: str) -> int:
        if word not in self._known:
            self._known[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
        return self._known[word]


class TokensOf:
    """Tokens of a tokenizer, without special ones.

    Args:
        tokenizer: of the model that generated the texts, or any other that is used for all of them.
        name: of the tokenizer, for display.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self.name = f"tokens of {name}"

    def encode(self, texts: Iterable[str]) -> list[Tokens]:
        """Ids of each text."""
        texts = list(texts)
        found: list[Tokens] = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return found


Unit = Words | TokensOf


def examples_of(rows: Rows, tokenizer: Any, unit: Unit | None = None, most: int | None = None) -> Iterator[Tokens]:
    """Prepared examples in units of the texts, split at their special tokens (packed texts stay separate).

    Args:
        rows: with `input_ids` of `tokenizer`.
        unit: another unit to count in; None: these ids.
        most: the most rows that are used.

    Raises:
        DataError: they have no `input_ids`.
    """
    special = set(tokenizer.all_special_ids)
    same = unit is None or (isinstance(unit, TokensOf) and fingerprint(unit.tokenizer) == fingerprint(tokenizer))
    count = len(rows) if most is None else min(most, len(rows))
    for start in range(0, count, _AT_ONCE):
        pieces: list[list[int]] = []
        for row in rows.fetch(range(start, min(start + _AT_ONCE, count))):
            if "input_ids" not in row:
                raise DataError(f"Texts are compared with input_ids, but the examples have only: {', '.join(row)}.")
            pieces += _between(list(row["input_ids"]), special)
        if same or unit is None:
            yield from pieces
        else:
            yield from unit.encode(decoded(piece, tokenizer) for piece in pieces)


def texts_of(rows: Rows, tokenizer: Any, most: int | None = None) -> Iterator[str]:
    """Prepared examples as text; arguments as for `examples_of`."""
    return (decoded(piece, tokenizer) for piece in examples_of(rows, tokenizer, None, most))


def _between(ids: Sequence[int], special: set[int]) -> list[list[int]]:
    return [list(run) for is_special, run in groupby(ids, special.__contains__) if not is_special]

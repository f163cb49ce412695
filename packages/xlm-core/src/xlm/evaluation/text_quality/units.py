"""What texts are counted in: tokens of one tokenizer, or words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any

from xlm.data.rows import Rows
from xlm.data.tokenizers import fingerprint
from xlm.errors import DataError
from xlm.evaluation.text_quality.ngrams import Tokens
from xlm.evaluation.text_quality.texts import decoded

_AT_ONCE = 1000


class Words:
    """Whatever stands between blanks, as a number that is the same everywhere."""

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
        tokenizer: of the model that wrote the texts, or any other that all of them are counted with.
        name: of the tokenizer, for people.
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
    """Prepared examples in units of the texts, in pieces between their special tokens (packed texts stay apart).

    Args:
        rows: with `input_ids` of `tokenizer`.
        unit: another unit that they are counted in; None: these ids.
        most: only the first so many rows.

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
                raise DataError(f"Texts are compared with input_ids, which the examples lack: {', '.join(row)}.")
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

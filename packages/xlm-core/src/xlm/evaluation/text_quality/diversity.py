"""How varied texts are, and how much of them is copied: entropy, distinct n-grams, repetition, overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int64, UInt64

from xlm.data.hashing import splitmix64
from xlm.evaluation.text_quality.texts import Estimate, Tokens, mean_of, ratio_of

_PRIME = np.uint64(0x100000001B3)


class Grams:
    """Concatenated texts, as hashes of their tokens.

    Args:
        rows: tokens of each text, numbers below 2^64; the texts may be empty.

    Attributes:
        values: (T,) a hash of each token.
        text: (T,) the index of its text.
        room: (T,) tokens from here to the end of its text, including itself.
        lengths: (N,) tokens of each text.
    """

    def __init__(self, rows: Iterable[Tokens]) -> None:
        rows = list(rows)
        self.lengths: Int64[np.ndarray, " texts"] = np.array([len(row) for row in rows], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.uint64, count=int(self.lengths.sum()))
        self.values = splitmix64(flat)
        self.text = np.repeat(np.arange(len(rows)), self.lengths)
        self.room = np.repeat(self.lengths.cumsum(), self.lengths) - np.arange(len(flat))

    def extended(
        self, hashes: UInt64[np.ndarray, " k"], starts: Int64[np.ndarray, " k"], n: int
    ) -> UInt64[np.ndarray, " k"]:
        """Hashes of the n-grams at `starts`, from those of the (n − 1)-grams there."""
        return splitmix64(hashes * _PRIME + self.values[starts + (n - 1)])

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
    # Not symmetric: token 2 of text 3 differs from token 3 of text 2.
    return splitmix64(hashes * _PRIME + text.astype(np.uint64))


DISTINCT = (1, 2, 3, 4)
# The length of the n-grams for repetition within a text.
REPEATED = 4
QUANTILES = (5, 50, 95)


def diversity(rows: Sequence[Tokens], ended: Sequence[bool | None] = ()) -> dict[str, Estimate]:
    """Numbers by name, over all texts, including empty ones.

    - `entropy`: of the tokens of one text (−Σ p log p, in nats), mean over texts; `entropy_pooled`: of all texts'
      tokens together.
    - `distinct_n`: different n-grams of all texts / n-grams of all texts (Li et al., arXiv 1510.03055). It falls with
      the number of texts, so only equal numbers can be compared; no error.
    - `repeated_4`: repeated n-grams of a text / its n-grams (Welleck et al., arXiv 1908.04319), over all texts.
    - `length`: mean, `length_sd`, quantiles and `length_max`; `empty`: share of texts without a token.
    - `ended`: share of texts that the model ended itself, among texts where this is known.
    """
    grams = Grams(rows)
    found = {"entropy": mean_of(_entropies(grams)), "entropy_pooled": _pooled_entropy(grams)}
    n = len(grams.lengths)
    for size in DISTINCT:
        hashes, _ = grams.of_size(size)
        found[f"distinct_{size}"] = Estimate(len(np.unique(hashes)) / len(hashes) if len(hashes) else None, None, n)
    found[f"repeated_{REPEATED}"] = ratio_of(_repeats(grams, REPEATED), grams.num(REPEATED))
    return found | _lengths(grams, ended)


def _entropies(grams: Grams) -> np.ndarray:
    """(N,) nats; 0 for a text without tokens."""
    _, first, counts = np.unique(in_text(grams.values, grams.text), return_index=True, return_counts=True)
    text = grams.text[first]
    share = counts / grams.lengths[text]
    # Not −Σ: for a text of one token, the entropy would be −0.
    return np.bincount(text, weights=share * np.log(1 / share), minlength=len(grams.lengths))


def _pooled_entropy(grams: Grams) -> Estimate:
    """Σ log(1/p) / Σ tokens; the influence of p's own error vanishes to first order."""
    _, place, counts = np.unique(grams.values, return_inverse=True, return_counts=True)
    surprisal = np.log(counts.sum() / counts)[place]
    return ratio_of(np.bincount(grams.text, weights=surprisal, minlength=len(grams.lengths)), grams.lengths)


def _repeats(grams: Grams, size: int) -> np.ndarray:
    """(N,) n-grams that occurred earlier in their text."""
    hashes, text = grams.of_size(size)
    _, first = np.unique(in_text(hashes, text), return_index=True)
    return grams.num(size) - np.bincount(text[first], minlength=len(grams.lengths))


def _lengths(grams: Grams, ended: Sequence[bool | None]) -> dict[str, Estimate]:
    lengths, n = grams.lengths, len(grams.lengths)
    found = {"length": mean_of(lengths)}
    if n:
        found["length_sd"] = Estimate(float(lengths.std(ddof=1)) if n > 1 else None, None, n)
        quantiles = np.quantile(lengths, [part / 100 for part in QUANTILES]).tolist()
        found |= {f"length_p{part}": Estimate(value, None, n) for part, value in zip(QUANTILES, quantiles, strict=True)}
        found["length_max"] = Estimate(float(lengths.max()), None, n)
    found["empty"] = mean_of(lengths == 0)
    if known := [end for end in ended if end is not None]:
        found["ended"] = mean_of(known)
    return found


SIZES = (1, 2, 4, 8)
# Training tokens that are compared at a time: memory doesn't grow with the training data.
CHUNK_TOKENS = 1 << 20


class Overlap:
    """For every position of the texts, the length of the longest span from there that a training example contains.

    Spans are compared as 64-bit hashes: with a billion training tokens and a million tokens of texts, the probability
    of one false match is about 10⁻⁴.

    Args:
        rows: tokens of each text.
    """

    def __init__(self, rows: Sequence[Tokens]) -> None:
        self.grams = Grams(rows)
        self.longest = np.zeros(len(self.grams.values), dtype=np.int64)
        self.num_examples = 0
        self.num_tokens = 0

    def add(self, examples: Sequence[Tokens]) -> None:
        """Look for the texts' spans in these whole training examples."""
        self.num_examples += len(examples)
        train, own = Grams(examples), self.grams
        self.num_tokens += len(train.values)
        places, found = np.arange(len(own.values)), np.arange(len(train.values))
        hashes, known = own.values, train.values
        n = 1
        while len(places) and len(found):
            # A span of n + 1 tokens can only start where one of n does, on both sides, so the work shrinks quickly.
            is_known, is_used = np.isin(hashes, known), np.isin(known, hashes)
            places, hashes, found, known = places[is_known], hashes[is_known], found[is_used], known[is_used]
            self.longest[places] = np.maximum(self.longest[places], n)
            n += 1
            has_room, is_long = own.room[places] >= n, train.room[found] >= n
            places, found = places[has_room], found[is_long]
            hashes = own.extended(hashes[has_room], places, n)
            known = train.extended(known[is_long], found, n)

    def estimates(self) -> dict[str, Estimate]:
        """Numbers by name; empty if no training example was seen.

        - `copied_n`: share of the texts' n-grams that a training example contains.
        - `copied_span`: length of a text's longest copied span, mean over texts; `copied_span_max`: the longest of all.
        - `copied_whole`: share of texts that a training example contains completely; empty texts don't count as copied.
        """
        if not self.num_examples:
            return {}
        grams, n = self.grams, len(self.grams.lengths)
        found = {}
        for size in SIZES:
            hits = grams.text[(grams.room >= size) & (self.longest >= size)]
            found[f"copied_{size}"] = ratio_of(np.bincount(hits, minlength=n), grams.num(size))
        spans = np.zeros(n, dtype=np.int64)
        np.maximum.at(spans, grams.text, self.longest)
        found["copied_span"] = mean_of(spans)
        found["copied_span_max"] = Estimate(float(spans.max()) if n else None, None, n)
        found["copied_whole"] = mean_of((spans == grams.lengths) & (grams.lengths > 0))
        return found


def add_all(overlaps: Sequence[Overlap], examples: Iterable[Tokens], chunk_tokens: int = CHUNK_TOKENS) -> None:
    """Pass training examples to each of `overlaps`, a bounded number at a time."""
    chunk: list[Tokens] = []
    size = 0
    for example in examples:
        chunk.append(example)
        size += len(example)
        if size >= chunk_tokens:
            for overlap in overlaps:
                overlap.add(chunk)
            chunk, size = [], 0
    for overlap in overlaps:
        overlap.add(chunk)

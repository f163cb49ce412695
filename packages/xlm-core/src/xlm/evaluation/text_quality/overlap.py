"""How much of the texts stands in the training data: shares of n-grams, and the longest span that was copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from xlm.evaluation.text_quality.estimate import Estimate, mean_of, ratio_of
from xlm.evaluation.text_quality.ngrams import Grams, Tokens

SIZES = (1, 2, 4, 8)
# Training tokens that are looked at together: memory doesn't grow with the training data.
CHUNK_TOKENS = 1 << 20


class Overlap:
    """For every place of the texts the length of the longest span from there that a training example contains.

    Spans are compared as 64-bit hashes: among a billion training tokens and a million of the texts', one false match
    has a probability of about 10⁻⁴.

    Args:
        rows: tokens of each text.
    """

    def __init__(self, rows: Sequence[Tokens]) -> None:
        self.grams = Grams(rows)
        self.longest = np.zeros(len(self.grams.values), dtype=np.int64)
        self.num_examples = 0
        self.num_tokens = 0

    def add(self, examples: Sequence[Tokens]) -> None:
        """Look for the texts' spans in these training examples, whole ones."""
        self.num_examples += len(examples)
        train, own = Grams(examples), self.grams
        self.num_tokens += len(train.values)
        places, found = np.arange(len(own.values)), np.arange(len(train.values))
        hashes, known = own.values, train.values
        n = 1
        while len(places) and len(found):
            # A span of n + 1 is only where one of n is, on both sides: the work shrinks quickly.
            is_known, is_used = np.isin(hashes, known), np.isin(known, hashes)
            places, hashes, found, known = places[is_known], hashes[is_known], found[is_used], known[is_used]
            self.longest[places] = np.maximum(self.longest[places], n)
            n += 1
            has_room, is_long = own.room[places] >= n, train.room[found] >= n
            places, found = places[has_room], found[is_long]
            hashes = own.extended(hashes[has_room], places, n)
            known = train.extended(known[is_long], found, n)

    def estimates(self) -> dict[str, Estimate]:
        """Numbers by name; nothing where no training example was seen.

        - `copied_n`: share of the texts' n-grams that a training example contains.
        - `copied_span`: tokens of a text's longest span that one contains, mean over texts; `copied_span_max`: of all.
        - `copied_whole`: share of texts that stand in a training example from beginning to end, empty ones not.
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
    """Show training examples to each of `overlaps`, a bounded number at a time."""
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

"""How varied texts are: entropy, distinct n-grams, repetition within a text, lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xlm.evaluation.text_quality.estimate import Estimate, mean_of, ratio_of
from xlm.evaluation.text_quality.ngrams import Grams, Tokens, in_text

DISTINCT = (1, 2, 3, 4)
# Of the n-grams whose repetition within a text is told.
REPEATED = 4
QUANTILES = (5, 50, 95)


def diversity(rows: Sequence[Tokens], ended: Sequence[bool | None] = ()) -> dict[str, Estimate]:
    """Numbers by name, over all texts, empty ones included.

    - `entropy`: of the tokens of one text (−Σ p log p, in nats), mean over texts; `entropy_pooled`: of all texts'
      tokens together.
    - `distinct_n`: different n-grams of all texts / n-grams of all texts (Li et al., arXiv 1510.03055). It falls as
      texts are added, so that only equal numbers of texts compare; no error.
    - `repeated_4`: n-grams of a text that it has had before / its n-grams (Welleck et al., arXiv 1908.04319), over all.
    - `length`: mean, `length_sd`, quantiles and `length_max`; `empty`: share of texts without a token.
    - `ended`: share of texts that the model ended itself, of those of which it is known.
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
    # Not −Σ: the entropy of a text of one token would be −0.
    return np.bincount(text, weights=share * np.log(1 / share), minlength=len(grams.lengths))


def _pooled_entropy(grams: Grams) -> Estimate:
    """Σ log(1/p) / Σ tokens; the influence of p's own error vanishes to first order."""
    _, place, counts = np.unique(grams.values, return_inverse=True, return_counts=True)
    surprisal = np.log(counts.sum() / counts)[place]
    return ratio_of(np.bincount(grams.text, weights=surprisal, minlength=len(grams.lengths)), grams.lengths)


def _repeats(grams: Grams, size: int) -> np.ndarray:
    """(N,) n-grams that are not the first of their kind in their text."""
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

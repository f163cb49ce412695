"""MAUVE of texts and a reference, by the library of its authors, from features of a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xlm.errors import ConfigError
from xlm.evaluation.text_quality.estimate import Estimate
from xlm.evaluation.text_quality.judge import Judge

# The library's own default; its clusters are drawn from it.
SEED = 25


def check_mauve() -> Any:
    """The library; ConfigError where it isn't installed."""
    try:
        import mauve as library
    except ImportError as error:
        raise ConfigError('MAUVE comes with a library of its own: pip install "xlm-core[mauve]"') from error
    return library


def mauve(texts: Sequence[str], reference: Sequence[str], judge: Judge) -> Estimate:
    """MAUVE between 0 and 1 (Pillutla et al., arXiv 2102.01454); 1 where the two cannot be told apart.

    Features are the judge's last hidden vector of each text, empty ones included, of which a text longer than the
    window gives its first window. Only values with equal judges, equal numbers of texts and equal references compare.

    Raises:
        ConfigError: the library isn't installed, or there are fewer than two texts on a side.
    """
    library = check_mauve()
    if min(len(texts), len(reference)) < 2:
        raise ConfigError("MAUVE compares at least two texts with at least two of the reference.")
    found = library.compute_mauve(
        p_features=judge.features(reference), q_features=judge.features(texts), seed=SEED, verbose=False
    )
    value = float(found.mauve)
    return Estimate(None if np.isnan(value) else value, None, len(texts))

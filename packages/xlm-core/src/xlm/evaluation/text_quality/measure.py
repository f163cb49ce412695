"""All quality numbers of a list of texts: a perplexity always comes with what it hides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from xlm.evaluation.text_quality.diversity import Overlap, diversity
from xlm.evaluation.text_quality.scorer import BATCH_SIZE, Scorer
from xlm.evaluation.text_quality.texts import Estimate, Tokens, ratio_of
from xlm.utils.columns import Column
from xlm.utils.consoles import print_table

# The rows of a table, if known: label, name of the number, format.
TOLD = (
    ("judge's perplexity", "judge_perplexity", ".1f"),
    ("judge's perplexity (mdlm)", "judge_perplexity_mdlm", ".1f"),
    ("entropy of a text", "entropy", ".3f"),
    ("entropy of all", "entropy_pooled", ".3f"),
    ("tokens of a text", "length", ".1f"),
    ("empty texts", "empty", ".3f"),
    ("ended by the model", "ended", ".3f"),
    ("distinct 1-grams", "distinct_1", ".3f"),
    ("distinct 2-grams", "distinct_2", ".3f"),
    ("repeated 4-grams", "repeated_4", ".3f"),
    ("copied 4-grams", "copied_4", ".3f"),
    ("copied 8-grams", "copied_8", ".3f"),
    ("longest copied span", "copied_span", ".1f"),
    ("MAUVE", "mauve", ".3f"),
)


@dataclass(frozen=True)
class Quality:
    """Numbers by name, over `n` texts; those of the judge, if any, come before the entropy."""

    numbers: dict[str, Estimate]
    n: int

    def record(self) -> dict[str, dict[str, Any]]:
        """JSON-able, in the format of metrics in the record of an evaluation."""
        return {name: estimate.record() for name, estimate in self.numbers.items()}


def measure(
    texts: Sequence[str],
    rows: Sequence[Tokens],
    *,
    ended: Sequence[bool | None] = (),
    judge: Scorer | None = None,
    overlap: Overlap | None = None,
    batch_size: int = BATCH_SIZE,
) -> Quality:
    """The quality of texts.

    Args:
        texts: all of them, including empty ones.
        rows: their tokens; use one tokenizer for all texts that are compared.
        ended: whether the model ended each text; None if unknown.
        judge: for `judge_perplexity`, exp(Σ NLL / Σ tokens of the judge), and `judge_nll_per_token`; their names
            include its protocol, unless it is "xlm".
        overlap: of `rows`, after it has seen the training data.
        batch_size: the most texts that the judge reads at once.
    """
    numbers: dict[str, Estimate] = {}
    if judge is not None:
        scores = judge.score(texts, batch_size, ended)
        nll = ratio_of(scores.nll, scores.num_tokens)
        numbers = {judge.named("judge_perplexity"): _exp(nll), judge.named("judge_nll_per_token"): nll}
    numbers |= diversity(rows, ended)
    if overlap is not None:
        numbers |= overlap.estimates()
    return Quality(numbers, len(texts))


def _exp(estimate: Estimate) -> Estimate:
    """e to the power of an estimate, with its error to first order."""
    if estimate.value is None:
        return estimate
    value = float(np.exp(estimate.value))
    return Estimate(value, None if estimate.se is None else value * estimate.se, estimate.n)


def _known(qualities: Mapping[str, Quality]) -> list[tuple[str, str, str]]:
    """The rows of a table; numbers that no list of texts has are left out."""
    return [told for told in TOLD if any(told[1] in found.numbers for found in qualities.values())]


def _cell(estimate: Estimate | None, form: str) -> str:
    if estimate is None or estimate.value is None:
        return "" if estimate is None else "–"
    error = "" if estimate.se is None else f" ± {estimate.se:{form}}"
    return f"{estimate.value:{form}}{error}"


def print_quality(qualities: Mapping[str, Quality], title: str, caption: str, console: Console) -> None:
    """A table on the screen, with a column for each list of texts."""
    columns = [Column(""), *(Column(name, is_figure=True) for name in qualities)]
    rows = [["texts", *(f"{found.n:,}" for found in qualities.values())]]
    rows += [
        [head, *(_cell(found.numbers.get(key), form) for found in qualities.values())]
        for head, key, form in _known(qualities)
    ]
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    print_table(console, columns, rows)
    console.print(caption, soft_wrap=True, highlight=False, markup=False)


def as_markdown(qualities: Mapping[str, Quality], title: str, caption: str) -> str:
    """The same as Markdown, with a row for each list of texts."""
    known = _known(qualities)
    lines = [["", "texts", *(head for head, _, _ in known)], ["---"] * (len(known) + 2)]
    for name, found in qualities.items():
        lines.append([name, f"{found.n:,}", *(_cell(found.numbers.get(key), form) for _, key, form in known)])
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{caption}\n"

"""A row is what it is: alone, among others, and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from xlm.harness import Harness
from xlm.testing.equality import differences, near
from xlm.testing.prediction import token_rows
from xlm.testing.properties import Inapplicable, require
from xlm.testing.samples import Sample
from xlm.testing.subject import Subject

TOLERANCE = 1e-4
_IDS = ("prompt_ids", "input_ids")
Examples = Sequence[dict[str, Any]]


def rows(subject: Subject) -> None:
    """Rows of one length, so that nothing is padded."""
    _compare(subject, _of_one_length)


def padding(subject: Subject) -> None:
    """Rows of different lengths, so that all but the longest are padded."""
    _compare(subject, _of_many_lengths)


def _of_one_length(examples: Examples) -> list[dict[str, Any]]:
    """The examples cut to the shortest of them."""
    shortest = {key: min(len(e[key]) for e in examples) for key in _IDS if all(key in e for e in examples)}
    return [{**e, **{key: list(e[key])[:length] for key, length in shortest.items()}} for e in examples]


def _of_many_lengths(examples: Examples) -> list[dict[str, Any]]:
    """Each example cut by one more token than the one before, of which one is left."""
    cut = []
    for number, example in enumerate(_of_one_length(examples)):
        lengths = {key: max(len(example[key]) - number, min(len(example[key]), 1)) for key in _IDS if key in example}
        cut.append({**example, **{key: example[key][:length] for key, length in lengths.items()}})
    return cut


def _compare(subject: Subject, cut: Any) -> None:
    """Losses and predictions of the examples, together and one by one; Inapplicable if all are drawn anew each time."""
    harness = subject.tried()
    compared = 0
    for sample in subject.samples:
        component = harness.loss_function if sample.role == "loss" else harness.predictor
        if component is None or _draws(harness, sample):
            continue
        compared += 1
        examples = cut(sample.examples)
        compare = compare_losses if sample.role == "loss" else compare_predictions
        compare(harness, sample, examples)
    if not compared:
        raise Inapplicable("loss and predictor draw from torch's global generator, so that no two calls agree")


def _draws(harness: Harness, sample: Sample) -> bool:
    """Whether what becomes of a batch depends on global random state."""
    batch = sample.batch(harness)
    first, second = (sample.run(harness, batch, seed) for seed in (1, 2))
    key = "loss" if sample.role == "loss" else "ids"
    return bool(differences({key: first[key]}, {key: second[key]}))


def compare_losses(harness: Harness, sample: Sample, examples: Examples) -> None:
    """The loss of a batch is the mean over its rows, weighted by their terms where those are told."""
    single = [_loss(harness, sample, [example]) for example in examples]
    together, _ = _loss(harness, sample, examples)
    terms = [n for _, n in single]
    expected = mean([value for value, _ in single], [1.0 if n is None else n for n in terms])
    if None in terms and not near(together, expected, TOLERANCE):
        _compare_unweighted(harness, sample, examples[:2])
        return
    require(
        near(together, expected, TOLERANCE),
        f"The loss of {sample.place} is {together:.6f} for {len(examples)} rows together, and {expected:.6f} as "
        "the mean of the rows alone.",
    )


def _compare_unweighted(harness: Harness, sample: Sample, pair: Examples) -> None:
    """A mean with unknown weights: those that two rows reveal must also hold when one of them comes twice."""
    first, second = pair
    (a, _), (b, _) = (_loss(harness, sample, [example]) for example in pair)
    both, _ = _loss(harness, sample, [first, second])
    doubled, _ = _loss(harness, sample, [first, first, second])
    share = (both - b) / (a - b) if not near(a, b, 1e-9) else 0.5
    ratio = share / (1 - share) if share < 1 else float("inf")
    expected = mean([a, b], [2 * ratio, 1.0])
    require(
        0 < share < 1 and near(doubled, expected, TOLERANCE),
        f"The loss of {sample.place} is no mean over its rows: {a:.6f} and {b:.6f} alone, {both:.6f} together, and "
        f"{doubled:.6f} with the first row twice.",
    )


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean; rows without weight don't count, whatever their value."""
    weighted = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else 0.0


def _loss(harness: Harness, sample: Sample, examples: Examples) -> tuple[float, float | None]:
    with torch.no_grad():
        found = sample.run(harness, sample.batch(harness, examples))
    terms = found.get("num_loss_terms")
    return float(found["loss"]), None if terms is None else float(terms)


def compare_predictions(harness: Harness, sample: Sample, examples: Examples) -> None:
    """The tokens of each row, pads left out."""
    pad = harness.tokenizer.pad_token_id
    together = token_rows(sample.run(harness, sample.batch(harness, examples)), pad)
    for number, example in enumerate(examples):
        alone = token_rows(sample.run(harness, sample.batch(harness, [example])), pad)[0]
        require(
            together[number] == alone,
            f"Row {number} of {sample.place} is predicted as {together[number]} among {len(examples)} rows, and as "
            f"{alone} alone.",
        )

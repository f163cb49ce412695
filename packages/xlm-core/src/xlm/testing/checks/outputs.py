"""What loss and predictor take and return, against the types that they declare."""

from __future__ import annotations

from xlm.harness import Harness
from xlm.testing.declared import declared_parameters, describe, mismatches
from xlm.testing.properties import Inapplicable, require
from xlm.testing.samples import Sample
from xlm.testing.subject import Subject


def types(subject: Subject) -> None:
    """Every batch and what comes of it; Inapplicable where nothing is declared."""
    harness = subject.harness()
    declared = 0
    for sample in subject.samples:
        component = harness.loss_function if sample.role == "loss" else harness.predictor
        if component is not None:
            declared += _check(harness, sample, component)
    if not declared:
        raise Inapplicable("neither loss nor predictor declares a TypedDict")


def _check(harness: Harness, sample: Sample, component: object) -> int:
    """How many types were declared and hold."""
    taken, given = declared_parameters(component)
    name, batch = type(component).__name__, sample.batch(harness)
    if taken is not None:
        # Another collator's batch may hold more than this component reads.
        wrong = [line for line in mismatches(taken, batch) if not line.startswith("undeclared ")]
        require(not wrong, f"{name} takes {describe(taken)}, but a batch of {sample.place}: {'; '.join(wrong)}.")
    if given is not None:
        wrong = mismatches(given, sample.run(harness, batch))
        require(not wrong, f"{name} returns no {describe(given)} for {sample.place}: {'; '.join(wrong)}.")
    return (taken is not None) + (given is not None)

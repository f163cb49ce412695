"""The seed decides everything: weights, losses with their noise, predictions."""

from __future__ import annotations

from typing import Any

from xlm.testing.equality import differences
from xlm.testing.properties import require
from xlm.testing.subject import SEED, Subject


def seed(subject: Subject) -> None:
    """Two networks from one seed, used in the same way."""
    one, other = (_history(subject) for _ in range(2))
    for what in one:
        changed = differences(one[what], other[what])
        require(not changed, f"From the same seed, {what} differ between two runs ({', '.join(changed[:3])}).")


def _history(subject: Subject) -> dict[str, Any]:
    """Weights, losses with dropout, and predictions."""
    harness = subject.harness(SEED)
    found: dict[str, Any] = {"weights": {name: value.clone() for name, value in harness.model.state_dict().items()}}
    harness.train()
    if subject.has_loss:
        for sample in subject.loss_samples:
            batch = sample.batch(harness)
            losses = [sample.run(harness, batch, seed)["loss"].detach() for seed in range(3)]
            found[f"the losses of {sample.place}"] = losses
    harness.eval()
    for sample in subject.samples:
        if sample.role == "prediction" and harness.predictor is not None:
            found[f"the predictions of {sample.place}"] = sample.run(harness, sample.batch(harness))["ids"]
    return found

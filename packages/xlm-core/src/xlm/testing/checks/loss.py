"""The loss: finite, with gradients everywhere, and it falls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xlm.harness import Harness
from xlm.testing.properties import require
from xlm.testing.samples import Sample
from xlm.testing.subject import Subject

NUM_STEPS, LEARNING_RATE = 20, 3e-3
# Random tokens are learnt by heart faster than this; noise alone doesn't bring it.
FALL = 0.9


def finite(subject: Subject) -> None:
    """A scalar under "loss", from a new network."""
    harness = subject.harness()
    for sample in subject.loss_samples:
        loss = scalar(sample.run(harness, sample.batch(harness)), sample)
        require(math.isfinite(loss.item()), f"The loss of {sample.place} is {loss.item()}.")


def scalar(found: dict[str, Any], sample: Sample) -> Tensor:
    """The loss of what a loss function returned."""
    loss = found.get("loss")
    require(
        isinstance(loss, Tensor) and loss.ndim == 0,
        f"The loss of {sample.place} is no scalar tensor under 'loss', but {type(loss).__name__} "
        f"{tuple(getattr(loss, 'shape', ()))}.",
    )
    assert isinstance(loss, Tensor)
    return loss


def gradients(subject: Subject) -> None:
    """Of all kinds of batches together, with weights that hide nothing."""
    harness = subject.tried()
    harness.zero_grad()
    for sample in subject.loss_samples:
        scalar(sample.run(harness, sample.batch(harness)), sample).backward()
    trainable = {name: p for name, p in harness.model.named_parameters() if p.requires_grad}
    require(trainable, "The network has no trainable parameter.")
    unused = [name for name, p in trainable.items() if p.grad is None or not p.grad.any()]
    require(not unused, f"No gradient reaches {', '.join(unused[:5])}{' …' * (len(unused) > 5)}.")


def falls(subject: Subject) -> None:
    """By plain Adam on one batch, without dropout."""
    sample = subject.loss_samples[0]
    harness = subject.harness()
    batch = sample.batch(harness)
    first, last = fit(harness, sample, batch)
    require(
        last <= FALL * first if first > 0 else last < first,
        f"After {NUM_STEPS} steps on one batch of {sample.place} the loss went from {first:.4f} to {last:.4f}.",
    )


def fit(harness: Harness, sample: Sample, batch: Any) -> tuple[float, float]:
    """First and last loss of a few steps on one batch."""
    optimizer = torch.optim.Adam([p for p in harness.model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    losses = []
    for _ in range(NUM_STEPS):
        loss = scalar(sample.run(harness, batch), sample)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses.append(scalar(sample.run(harness, batch), sample).item())
    return losses[0], losses[-1]

"""Weights: what was saved comes back, as a checkpoint and as a shared folder."""

from __future__ import annotations

from typing import Any, cast

import torch

from xlm.harness import Harness
from xlm.inference.trained import load
from xlm.model import Model
from xlm.testing.equality import differences
from xlm.testing.properties import Violation, require
from xlm.testing.subject import Subject
from xlm.training.rng import reseed
from xlm.training.weights import save_folder


def _losses(subject: Subject, harness: Harness) -> dict[str, Any]:
    return {s.place: s.run(harness, s.batch(harness))["loss"].detach() for s in subject.loss_samples}


def _trained(subject: Subject) -> Harness:
    """A harness in float32 whose weights are no longer those of its seed."""
    harness = subject.tried().float()
    harness.configure_components()
    return harness


def checkpoint(subject: Subject) -> None:
    """Through a file with everything that a run's checkpoint has of the harness, into a network of another seed."""
    harness = _trained(subject)
    saved: dict[str, Any] = {"state_dict": harness.state_dict(), "global_step": 1}
    harness.on_save_checkpoint(saved)
    path = subject.folder / "check.ckpt"
    torch.save(saved, path)
    reseed(99)
    again = type(harness).from_checkpoint(path, subject.bare, subject.tokenizer, subject.datamodule)
    again.eval()
    again.configure_components()
    changed = differences(_losses(subject, harness), _losses(subject, again))
    require(not changed, f"After loading the checkpoint the loss of {', '.join(changed)} is another one.")


def hub(subject: Subject) -> None:
    """As `push_to_hub` would upload it, read from the folder."""
    harness = _trained(subject)
    folder = save_folder(subject.folder / "shared", harness.model, subject.bare, subject.tokenizer)
    loaded = load(folder)
    changed = differences(_losses(subject, harness), _losses(subject, loaded.harness))
    require(not changed, f"After xlm.load of the folder the loss of {', '.join(changed)} is another one.")
    weights, network = harness.model.state_dict(), type(harness.model)
    if not issubclass(network, Model):
        return
    try:
        again = cast(torch.nn.Module, network.from_pretrained(str(folder)))
    except TypeError as error:
        raise Violation(f"{network.__name__}.from_pretrained fails: {error}.") from error
    changed = differences(weights, again.state_dict())
    require(not changed, f"{network.__name__}.from_pretrained gives other weights: {', '.join(changed[:5])}.")

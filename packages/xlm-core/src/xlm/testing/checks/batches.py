"""Batches: every loader gives one, of the declared type, from collators that workers can use."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Mapping
from typing import Any

from xlm.testing.declared import declared_output, describe, mismatches
from xlm.testing.equality import differences
from xlm.testing.properties import require
from xlm.testing.subject import Subject
from xlm.training.rng import capture
from xlm.utils.imports import get_function


def loaders(subject: Subject) -> None:
    """The first batch of each, collated by the loader itself."""
    data = subject.datamodule
    for split, name, manager in data._managers(None):
        batch = next(iter(manager.get_dataloader(split, data.tokenizer, seed=data.seed)))
        require(isinstance(batch, Mapping), f"A batch of {split}/{name} is a {type(batch).__name__}, not a dict.")
        show = data.print_batch_fn
        if show is not None:
            function = get_function(show, key="datamodule.print_batch_fn") if isinstance(show, str) else show
            with contextlib.redirect_stdout(io.StringIO()):
                function(batch, split, data.tokenizer, name)


def types(subject: Subject) -> None:
    """Against the declared TypedDict; without one, the names of fields and the number of rows."""
    for sample in subject.samples:
        batch = sample.collate()
        declared = declared_output(sample.collator)
        wrong = mismatches(declared, batch) if declared is not None else _undeclared(batch, len(sample.examples))
        type_name = describe(declared) if declared is not None else "a dict of tensors"
        require(not wrong, f"A batch of {sample.place} is not {type_name}: {'; '.join(wrong)}.")


def _undeclared(batch: Any, num_rows: int) -> list[str]:
    """What is wrong with a batch of which nothing was declared."""
    ids = batch.get("input_ids")
    wrong = [f"the field {name!r} has no name" for name in batch if not isinstance(name, str)]
    if ids is None or getattr(ids, "ndim", 0) != 2 or len(ids) != num_rows:
        wrong.append(f"input_ids is no tensor of {num_rows} rows and some columns")
    return wrong


def pickles(subject: Subject) -> None:
    """There and back, with the same batch from the copy."""
    for sample in subject.samples:
        try:
            copy = pickle.loads(pickle.dumps(sample.collator))
        except (pickle.PickleError, AttributeError, TypeError) as error:
            require(False, f"{type(sample.collator).__name__} ({sample.place}) cannot be pickled: {error}.")
        before = sample.collate()
        after = type(sample)(sample.place, sample.role, copy, sample.examples).collate()
        changed = differences(before, after)
        require(not changed, f"A copy of {type(copy).__name__} makes other batches: {', '.join(changed)} differ.")


def no_global_random(subject: Subject) -> None:
    """The same batch from two states of the generators, and both states left as they were."""
    for sample in subject.samples:
        name = f"{type(sample.collator).__name__} ({sample.place})"
        changed = differences(sample.collate(seed=1), sample.collate(seed=2))
        require(not changed, f"What {name} makes depends on global random state: {', '.join(changed)}.")
        before = capture()
        sample.collator([dict(example) for example in sample.examples])
        moved = [kind for kind, state in capture().items() if differences(before[kind], state)]
        require(not moved, f"{name} moves the global generator of {', '.join(moved)}.")

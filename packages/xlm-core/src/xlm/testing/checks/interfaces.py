"""Checks of what collators, loss and predictor accept and return."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import pickle
from collections.abc import Mapping
from typing import Any

import torch

from xlm.harness import Harness
from xlm.testing.compare import declared_output, declared_parameters, describe, differences, mismatches
from xlm.testing.contract import Inapplicable, TooManyCalls, Violation, require
from xlm.testing.model_under_test import ModelUnderTest
from xlm.testing.samples import STEPS, TOKENS, Sample, token_rows
from xlm.training.rng import capture
from xlm.utils.imports import get_function

# Limits small enough to take effect: tokens of an answer, and steps.
SMALL_LIMITS = {**dict.fromkeys(TOKENS, 3), **dict.fromkeys(STEPS, 2)}


def loaders(model: ModelUnderTest) -> None:
    """The first batch of each dataloader is a dict and can be printed."""
    data = model.datamodule
    for split, name, manager in data._managers(None):
        batch = next(iter(manager.get_dataloader(split, data.tokenizer, seed=data.seed)))
        require(isinstance(batch, Mapping), f"A batch of {split}/{name} is a {type(batch).__name__}, not a dict.")
        show = data.print_batch_fn
        if show is not None:
            function = get_function(show, key="datamodule.print_batch_fn") if isinstance(show, str) else show
            with contextlib.redirect_stdout(io.StringIO()):
                function(batch, split, data.tokenizer, name)


def batch_types(model: ModelUnderTest) -> None:
    """Batches match the declared TypedDict; without one, they have named fields and a row for each example."""
    for sample in model.samples:
        batch = sample.collate()
        declared = declared_output(sample.collator)
        wrong = mismatches(declared, batch) if declared is not None else _undeclared(batch, len(sample.examples))
        type_name = describe(declared) if declared is not None else "a dict of tensors"
        require(not wrong, f"A batch of {sample.place} is not {type_name}: {'; '.join(wrong)}.")


def _undeclared(batch: Any, num_rows: int) -> list[str]:
    """The errors in a batch without a declared type."""
    ids = batch.get("input_ids")
    wrong = [f"the key {name!r} is not a string" for name in batch if not isinstance(name, str)]
    if ids is None or getattr(ids, "ndim", 0) != 2 or len(ids) != num_rows:
        wrong.append(f"input_ids is not a tensor with {num_rows} rows")
    return wrong


def pickles(model: ModelUnderTest) -> None:
    """Collators can be pickled, and the copy makes the same batch."""
    for sample in model.samples:
        try:
            copy = pickle.loads(pickle.dumps(sample.collator))
        except (pickle.PickleError, AttributeError, TypeError) as error:
            require(False, f"{type(sample.collator).__name__} ({sample.place}) cannot be pickled: {error}.")
        before = sample.collate()
        after = type(sample)(sample.place, sample.role, copy, sample.examples).collate()
        changed = differences(before, after)
        require(not changed, f"A pickled copy of {type(copy).__name__} makes another batch: {', '.join(changed)}.")


def no_global_random(model: ModelUnderTest) -> None:
    """Collators make the same batch from two states of the global generators, and leave the state as it was."""
    for sample in model.samples:
        name = f"{type(sample.collator).__name__} ({sample.place})"
        changed = differences(sample.collate(seed=1), sample.collate(seed=2))
        require(not changed, f"The batch of {name} depends on global random state: {', '.join(changed)}.")
        before = capture()
        sample.collator([dict(example) for example in sample.examples])
        moved = [kind for kind, state in capture().items() if differences(before[kind], state)]
        require(not moved, f"{name} changes the global random generator of {', '.join(moved)}.")


def output_types(model: ModelUnderTest) -> None:
    """Inputs and outputs of loss and predictor match their declared types; Inapplicable if they declare none."""
    harness = model.harness()
    declared = 0
    for sample in model.samples:
        component = harness.loss_function if sample.role == "loss" else harness.predictor
        if component is not None:
            declared += _check_declared(harness, sample, component)
    if not declared:
        raise Inapplicable("neither loss nor predictor declares a TypedDict")


def _check_declared(harness: Harness, sample: Sample, component: object) -> int:
    """The number of types that a component declares; Violation if a value doesn't match."""
    inputs, outputs = declared_parameters(component)
    name, batch = type(component).__name__, sample.batch(harness)
    if inputs is not None:
        # Another collator's batch may have fields that this component doesn't read.
        wrong = [line for line in mismatches(inputs, batch) if not line.startswith("undeclared ")]
        require(not wrong, f"{name} takes {describe(inputs)}, but a batch of {sample.place} has: {'; '.join(wrong)}.")
    if outputs is not None:
        wrong = mismatches(outputs, sample.run(harness, batch))
        require(not wrong, f"{name} does not return {describe(outputs)} for {sample.place}: {'; '.join(wrong)}.")
    return (inputs is not None) + (outputs is not None)


class WithoutEnd:
    """A tokenizer with an EOS that no network can predict; everything else is unchanged."""

    eos_token_id = -1

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer(*args, **kwargs)


def predicts(model: ModelUnderTest) -> None:
    """The predictor returns `ids` and `text` for every row."""
    harness = model.perturbed_harness()
    for sample in model.prediction_samples:
        found = sample.run(harness, sample.batch(harness))
        ids, text, num_rows = found.get("ids"), found.get("text"), len(sample.examples)
        is_ids = (
            isinstance(ids, torch.Tensor) and not ids.is_floating_point() and ids.ndim == 2 and len(ids) == num_rows
        )
        require(is_ids, f"For {num_rows} rows of {sample.place}, ids are {_shape(ids)}.")
        is_text = isinstance(text, list) and len(text) == num_rows and all(isinstance(line, str) for line in text)
        require(is_text, f"For {num_rows} rows of {sample.place}, text is {text!r:.80}.")


def _shape(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def ends(model: ModelUnderTest) -> None:
    """The predictor stops, even if the network never predicts EOS."""
    samples = model.prediction_samples
    sample = samples[0]
    try:
        harness = model.perturbed_harness()
        for sample in samples:
            sample.run(harness, sample.batch(harness))
        harness.predictor.tokenizer = WithoutEnd(harness.tokenizer)
        for sample in samples:
            # A predictor that uses the id of EOS as an index cannot run with this tokenizer.
            with contextlib.suppress(IndexError, KeyError, RuntimeError, ValueError):
                sample.run(harness, sample.batch(harness))
    except TooManyCalls as error:
        raise Violation(f"{model.cfg.predictor._target_} doesn't end for {sample.place}: {error}") from error


def keeps_prompt(model: ModelUnderTest) -> None:
    """A prompt appears unchanged in the prediction; of a prompt with masks, its tokens appear in order."""
    harness, mask = model.perturbed_harness(), model.tokenizer.mask_token_id
    pad, compared = model.tokenizer.pad_token_id, 0
    for sample in model.prediction_samples:
        found = sample.run(harness, sample.batch(harness))
        for example, row in zip(sample.examples, token_rows(found, pad), strict=True):
            prompt = list(example.get("prompt_ids") or [])
            given = [token for token in prompt if token != mask]
            compared += bool(given)
            kept = is_part(given, row) if len(given) == len(prompt) else is_subsequence(given, row)
            require(kept, f"The prompt {prompt} of {sample.place} is not in the prediction {row}.")
    if not compared:
        raise Inapplicable("no example has a prompt")


def is_part(given: list[int], row: list[int]) -> bool:
    """Whether the tokens appear in a row without gaps."""
    return any(row[start : start + len(given)] == given for start in range(len(row) - len(given) + 1))


def is_subsequence(given: list[int], row: list[int]) -> bool:
    """Whether the tokens appear in a row in order, with or without gaps."""
    rest = iter(row)
    return all(token in rest for token in given)


def limits(model: ModelUnderTest) -> None:
    """The predictor respects each of its limits when it is set to a small value."""
    harness, sample = model.perturbed_harness(), model.prediction_samples[0]
    parameters = inspect.signature(get_function(model.cfg.predictor._target_)).parameters
    known = {name: value for name, value in SMALL_LIMITS.items() if name in parameters}
    compared = 0
    for name, value in known.items():
        harness.predictor = harness.predictor_with({name: value})
        batch = sample.batch(harness)
        found = sample.run(harness, batch)
        if name in TOKENS and {"input_ids", "attention_mask"} <= set(batch):
            compared += 1
            most = max(_num_generated(model, batch, found))
            require(most <= value + 1, f"With {name}={value} the longest answer has {most} tokens (EOS included).")
        elif name in STEPS and "steps_taken" in found:
            compared += 1
            most = int(torch.as_tensor(found["steps_taken"]).max())
            require(most <= value, f"With {name}={value} a row took {most} steps.")
    if not known:
        raise Inapplicable(f"the predictor has none of the arguments {', '.join(SMALL_LIMITS)}")
    if not compared:
        raise Inapplicable(
            f"its limits ({', '.join(known)}) cannot be tested without steps_taken, or without input_ids in the batch"
        )


def _num_generated(model: ModelUnderTest, batch: Any, found: dict[str, Any]) -> list[int]:
    """The number of tokens in each row that were not given in the batch."""
    mask = batch["input_ids"] != model.tokenizer.mask_token_id
    given = (batch["attention_mask"].bool() & mask).sum(dim=1).tolist()
    rows = token_rows(found, model.tokenizer.pad_token_id)
    return [len(row) - known for row, known in zip(rows, given, strict=True)]


def rows_are_json(model: ModelUnderTest) -> None:
    """`to_dict` returns one row for each example, each a dict that JSON can represent."""
    harness = model.perturbed_harness()
    for sample in model.prediction_samples:
        batch = sample.batch(harness)
        found = sample.run(harness, batch)
        rows = harness.predictor.to_dict(batch, found)
        require(
            isinstance(rows, list) and len(rows) == len(sample.examples),
            f"to_dict does not return a list of {len(sample.examples)} rows for {sample.place}.",
        )
        for row in rows:
            try:
                written = json.dumps(row)
            except (TypeError, ValueError) as error:
                require(False, f"A row of {sample.place} cannot be written as JSON: {error}.")
            require(written.startswith("{"), f"A row of {sample.place} is a {type(row).__name__}, not a dict.")

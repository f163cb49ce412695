"""The predictor: it returns what it should, ends, keeps the prompt, respects limits, and writes JSON."""

from __future__ import annotations

import contextlib
import inspect
import json
from typing import Any

import torch

from xlm.testing.prediction import STEPS, TOKENS, is_part, is_subsequence, token_rows
from xlm.testing.properties import Inapplicable, TooManyCalls, Violation, require
from xlm.testing.subject import Subject
from xlm.utils.imports import get_function

# Small enough that they bind: tokens of an answer, steps.
FEW = {**dict.fromkeys(TOKENS, 3), **dict.fromkeys(STEPS, 2)}


class WithoutEnd:
    """A tokenizer whose EOS no network can say, all else being as it is."""

    eos_token_id = -1

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer(*args, **kwargs)


def predicts(subject: Subject) -> None:
    """`ids` and `text` of every row."""
    harness = subject.tried()
    for sample in subject.prediction_samples:
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


def ends(subject: Subject) -> None:
    """Also if the network never says EOS."""
    samples = subject.prediction_samples
    sample = samples[0]
    try:
        harness = subject.tried()
        for sample in samples:
            sample.run(harness, sample.batch(harness))
        harness.predictor.tokenizer = WithoutEnd(harness.tokenizer)
        for sample in samples:
            # A predictor that looks its EOS up cannot be shown a vocabulary without one.
            with contextlib.suppress(IndexError, KeyError, RuntimeError, ValueError):
                sample.run(harness, sample.batch(harness))
    except TooManyCalls as error:
        raise Violation(f"{subject.cfg.predictor._target_} doesn't end for {sample.place}: {error}") from error


def keeps_prompt(subject: Subject) -> None:
    """A prompt as it is; of one with masks, the tokens between them, in order."""
    harness, mask = subject.tried(), subject.tokenizer.mask_token_id
    pad, compared = subject.tokenizer.pad_token_id, 0
    for sample in subject.prediction_samples:
        found = sample.run(harness, sample.batch(harness))
        for example, row in zip(sample.examples, token_rows(found, pad), strict=True):
            prompt = list(example.get("prompt_ids") or [])
            given = [token for token in prompt if token != mask]
            compared += bool(given)
            kept = is_part(given, row) if len(given) == len(prompt) else is_subsequence(given, row)
            require(kept, f"The prompt {prompt} of {sample.place} is not in what was predicted: {row}.")
    if not compared:
        raise Inapplicable("no example has a prompt")


def limits(subject: Subject) -> None:
    """Each limit that the predictor takes, made small."""
    harness, sample = subject.tried(), subject.prediction_samples[0]
    taken = inspect.signature(get_function(subject.cfg.predictor._target_)).parameters
    known = {name: value for name, value in FEW.items() if name in taken}
    compared = 0
    for name, value in known.items():
        harness.predictor = harness.predictor_with({name: value})
        batch = sample.batch(harness)
        found = sample.run(harness, batch)
        if name in TOKENS and {"input_ids", "attention_mask"} <= set(batch):
            compared += 1
            most = max(_generated(subject, batch, found))
            require(most <= value + 1, f"With {name}={value} the longest answer has {most} tokens (EOS included).")
        elif name in STEPS and "steps_taken" in found:
            compared += 1
            most = int(torch.as_tensor(found["steps_taken"]).max())
            require(most <= value, f"With {name}={value} a row took {most} steps.")
    if not known:
        raise Inapplicable(f"the predictor takes none of {', '.join(FEW)}")
    if not compared:
        raise Inapplicable(f"its limits ({', '.join(known)}) show in no steps_taken, or in a batch without input_ids")


def _generated(subject: Subject, batch: Any, found: dict[str, Any]) -> list[int]:
    """Tokens of each row that the batch didn't give."""
    mask = batch["input_ids"] != subject.tokenizer.mask_token_id
    given = (batch["attention_mask"].bool() & mask).sum(dim=1).tolist()
    rows = token_rows(found, subject.tokenizer.pad_token_id)
    return [len(row) - known for row, known in zip(rows, given, strict=True)]


def rows_are_json(subject: Subject) -> None:
    """As many rows as examples, each a dict that json writes."""
    harness = subject.tried()
    for sample in subject.prediction_samples:
        batch = sample.batch(harness)
        found = sample.run(harness, batch)
        rows = harness.predictor.to_dict(batch, found)
        require(
            isinstance(rows, list) and len(rows) == len(sample.examples),
            f"to_dict gives no list of {len(sample.examples)} rows for {sample.place}.",
        )
        for row in rows:
            try:
                written = json.dumps(row)
            except (TypeError, ValueError) as error:
                require(False, f"A row of {sample.place} cannot be written as JSON: {error}.")
            require(written.startswith("{"), f"A row of {sample.place} is no dict, but {type(row).__name__}.")

"""Measures the likelihood of every loss loader while Lightning validates or tests."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Integer
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from xlm.data.functional import NUM_BYTES
from xlm.data.loaders import EvalLoader
from xlm.evaluation.likelihood import (
    IGNORE,
    Description,
    Likelihood,
    LikelihoodEstimator,
    coded_ids,
    description,
    gives_likelihood,
    likelihood_terms,
    num_bytes,
)
from xlm.utils.rank_zero import gathered


@dataclass(frozen=True)
class Measured:
    """The likelihood of one loader, what it is the likelihood of, and the seconds that measuring took.

    `num_decoded`: examples whose bytes are those of their decoded tokens, as the data do not hold their text's; None
    where tokens are no text.
    """

    likelihood: Likelihood
    description: Description
    seconds: float
    num_decoded: int | None = None

    @property
    def kind(self) -> str:
        """`exact` or `upper bound`."""
        return "exact" if self.likelihood.exact else "upper bound"

    @property
    def bytes(self) -> str | None:
        """Which bytes were counted: those of the `source` texts, of the `decoded` tokens, or `mixed`; None: neither."""
        if self.num_decoded is None:
            return None
        return {0: "source", self.likelihood.num_examples: "decoded"}.get(self.num_decoded, "mixed")

    def values(self) -> dict[str, tuple[float, float]]:
        """Name → (value, standard error); a likelihood of another name says so in all of them."""
        found, name = self.likelihood, self.description.name
        values = {
            f"{name}_per_token": (found.nll, found.standard_error),
            f"{name}_per_sequence": (found.nll_per_sequence, found.nll_per_sequence_error),
            name.replace("nll", "perplexity"): (found.perplexity, found.perplexity_error),
        }
        if found.bits_per_byte is not None and found.bits_per_byte_error is not None:
            values[name.replace("nll", "bits_per_byte")] = (found.bits_per_byte, found.bits_per_byte_error)
        return values

    def record(self) -> dict[str, Any]:
        """All of it, JSON-able; a standard error that cannot be known is None."""
        found = self.likelihood
        return {
            "kind": self.kind,
            "exact": found.exact,
            "of": f"-log p of {self.description.of}",
            **{name: {"value": value, "se": _or_none(error)} for name, (value, error) in self.values().items()},
            "estimator_se": _or_none(found.estimator_error),
            "n": found.num_examples,
            "num_tokens": found.num_tokens,
            "num_samples": found.num_samples,
            "bytes": self.bytes,
            "num_decoded": self.num_decoded,
            "seconds": round(self.seconds, 3),
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


class LikelihoodPass(Callback):
    """Draws `num_samples` times from each example's likelihood, beside the usual metrics of the same batches.

    Nothing is drawn from global random state. The harness has to be one of ours: its datamodule says which loaders
    are for the loss. A loss without likelihood is left out.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.measured: dict[str, Measured] = {}
        self._estimators: dict[str, LikelihoodEstimator] = {}
        self._descriptions: dict[str, Description] = {}
        self._seconds: dict[str, float] = {}
        self._decoded: dict[str, int | None] = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._add(trainer, pl_module, batch, batch_idx, "val", dataloader_idx)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._add(trainer, pl_module, batch, batch_idx, "test", dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(pl_module)

    def _add(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, split: str, dataloader_idx: int
    ) -> None:
        datamodule, loss = pl_module.datamodule, pl_module.loss_function
        name = datamodule.dataloader_names[split][dataloader_idx]
        if datamodule.role(split, name) != "loss" or not gives_likelihood(loss):
            return
        start, place = time.monotonic(), f"{split}/{name}"
        with trainer.precision_plugin.forward_context():
            terms = likelihood_terms(loss, batch, self.num_samples)
        self._descriptions[place] = description(loss, batch)
        rows = _rows_of_batch(trainer, split, dataloader_idx, batch_idx)
        counted = text_bytes(coded_ids(loss, batch), pl_module.tokenizer, rows)
        self._estimators.setdefault(place, LikelihoodEstimator()).update(terms, counted and counted.num_bytes)
        self._decoded[place] = None if counted is None else (self._decoded.get(place) or 0) + counted.num_decoded
        self._seconds[place] = self._seconds.get(place, 0.0) + time.monotonic() - start

    def _finish(self, pl_module: Any) -> None:
        for place, estimator in self._estimators.items():
            likelihood = estimator.from_all_ranks().compute()
            decoded = [count for count in gathered(self._decoded[place]) if count is not None]
            self.measured[place] = Measured(
                likelihood,
                self._descriptions[place],
                self._seconds[place],
                sum(decoded) if decoded else None,
            )
        self._estimators, self._seconds, self._decoded = {}, {}, {}


def _rows_of_batch(trainer: Trainer, split: str, dataloader_idx: int, batch_idx: int) -> list[dict[str, Any]]:
    """The rows that a batch was made of; none where the loader is not one of ours."""
    loaders: Any = trainer.test_dataloaders if split == "test" else trainer.val_dataloaders
    loader = loaders[dataloader_idx] if isinstance(loaders, Sequence) else loaders
    return loader.rows_of_batch(batch_idx) if isinstance(loader, EvalLoader) else []


class TextBytes(NamedTuple):
    """UTF-8 bytes of each text of a batch, and of how many they are those of the decoded tokens."""

    num_bytes: Tensor
    num_decoded: int


def text_bytes(
    coded: Integer[Tensor, "batch length"], tokenizer: Any, rows: Sequence[Mapping[str, Any]] = ()
) -> TextBytes | None:
    """UTF-8 bytes of the texts that tokens stand for; None if tokens are not text.

    They are those of the source text where the row knows it and all its tokens are coded. Else, as for a text that was
    cut to its block, they are those of the text that the coded tokens decode to, without special tokens: where a
    tokenizer loses something, in letter case or in unknown characters, these are too few or too many.

    Args:
        coded: -100 for what doesn't count.
        tokenizer: one that only numbers the labels of a synthetic task says so by `is_text = False`.
        rows: those that the batch was made of, with `input_ids` and `num_bytes`; none where they are not known.
    """
    if not getattr(tokenizer, "is_text", True):
        return None
    texts = [[token for token in ids if token != IGNORE] for ids in coded.tolist()]
    known = [row.get(NUM_BYTES) for row in rows] if len(rows) == len(texts) else [None] * len(texts)
    marks = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep")}
    for place, ids in enumerate(texts):
        if known[place] is not None and not _is_whole(ids, list(rows[place]["input_ids"]), marks):
            known[place] = None
    decoded = [place for place, count in enumerate(known) if count is None]
    lengths = num_bytes(tokenizer.decode(texts[place], skip_special_tokens=True) for place in decoded)
    for place, length in zip(decoded, lengths.tolist(), strict=True):
        known[place] = length
    return TextBytes(torch.tensor(known, dtype=torch.int64), len(decoded))


def _is_whole(coded: list[int], ids: list[int], marks: set[int | None]) -> bool:
    """Whether all tokens of a row are coded, with nothing around them but marks of beginning and end."""
    start = 0 if coded[: len(ids)] == ids else 1
    end = start + len(ids)
    return coded[start:end] == ids and marks.issuperset(coded[:start] + coded[end:])


def print_likelihoods(measured: dict[str, Measured], console: Console) -> None:
    """A small table for each loader, with what the numbers are and what they took."""
    for place, found in measured.items():
        likelihood = found.likelihood
        kind = "exact" if likelihood.exact else "an upper bound on the"
        console.print(f"{place}: {kind} NLL of {found.description.of}", style="italic", soft_wrap=True, highlight=False)
        table = Table()
        for column in ("likelihood", "value", "± s.e."):
            table.add_column(column, justify="left" if column == "likelihood" else "right", no_wrap=True)
        for name, (value, error) in found.values().items():
            table.add_row(name.replace("_", " "), f"{value:.4f}", "" if math.isnan(error) else f"{error:.4f}")
        console.print(table)
        draws = "" if likelihood.exact else f", {likelihood.num_samples} draws an example"
        counts = (
            f"{likelihood.num_examples:,} examples, {likelihood.num_tokens:,} tokens{draws}{_bytes_in_words(found)}"
        )
        console.print(f"{counts}, {found.seconds:.1f} s", soft_wrap=True, highlight=False)


def _bytes_in_words(found: Measured) -> str:
    """Which bytes were counted, as a part of a list; nothing where there is no number of bytes."""
    if found.bytes is None or found.likelihood.bits_per_byte is None:
        return ""
    decoded = f"{found.num_decoded:,} of {found.likelihood.num_examples:,} examples"
    return {
        "source": ", bytes of the source texts",
        "decoded": ", bytes of the decoded tokens, as those of the source texts are not known",
        "mixed": f", bytes of the source texts, and of the decoded tokens in {decoded}",
    }[found.bytes]

"""Measures the likelihood of every loss loader while Lightning validates or tests."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

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


@dataclass(frozen=True)
class Measured:
    """The likelihood of one loader, what it is the likelihood of, and the seconds that measuring took."""

    likelihood: Likelihood
    description: Description
    seconds: float

    @property
    def kind(self) -> str:
        """`exact` or `upper bound`."""
        return "exact" if self.likelihood.exact else "upper bound"

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

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._add(trainer, pl_module, batch, "val", dataloader_idx)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._add(trainer, pl_module, batch, "test", dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(pl_module)

    def _add(self, trainer: Trainer, pl_module: Any, batch: Any, split: str, dataloader_idx: int) -> None:
        datamodule, loss = pl_module.datamodule, pl_module.loss_function
        name = datamodule.dataloader_names[split][dataloader_idx]
        if datamodule.role(split, name) != "loss" or not gives_likelihood(loss):
            return
        start, place = time.monotonic(), f"{split}/{name}"
        with trainer.precision_plugin.forward_context():
            terms = likelihood_terms(loss, batch, self.num_samples)
        self._descriptions[place] = description(loss, batch)
        lengths = text_bytes(coded_ids(loss, batch), pl_module.tokenizer)
        self._estimators.setdefault(place, LikelihoodEstimator()).update(terms, lengths)
        self._seconds[place] = self._seconds.get(place, 0.0) + time.monotonic() - start

    def _finish(self, pl_module: Any) -> None:
        for place, estimator in self._estimators.items():
            likelihood = estimator.from_all_ranks().compute()
            self.measured[place] = Measured(likelihood, self._descriptions[place], self._seconds[place])
        self._estimators, self._seconds = {}, {}


def text_bytes(ids: Tensor, tokenizer: Any) -> Tensor | None:
    """UTF-8 bytes of the text that rows of ids decode to, special tokens left out; None if tokens are not text.

    Args:
        ids: (B, L), -100 for what doesn't count.
        tokenizer: one that only numbers the labels of a synthetic task says so by `is_text = False`.
    """
    if not getattr(tokenizer, "is_text", True):
        return None
    rows = [[token for token in row if token != IGNORE] for row in ids.tolist()]
    return num_bytes(tokenizer.decode(row, skip_special_tokens=True) for row in rows)


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
        counts = f"{likelihood.num_examples:,} examples, {likelihood.num_tokens:,} tokens{draws}"
        console.print(f"{counts}, {found.seconds:.1f} s", soft_wrap=True, highlight=False)

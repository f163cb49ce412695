"""Likelihood for all families: NLL per token, perplexity and bits per byte, exact or a bound, over whole loaders."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Integer, Shaped
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from xlm.data.functional import NUM_BYTES
from xlm.data.loaders import EvalLoader
from xlm.errors import ConfigError
from xlm.utils.columns import Column
from xlm.utils.consoles import print_table
from xlm.utils.rank_zero import all_gather_objects

IGNORE = -100
# The fewest draws of a bound per example: the smallest number with an error of its own. Each averages several maskings.
NUM_SAMPLES = 2
# The most, and how many all examples together should have.
_MOST_SAMPLES, _ALL_SAMPLES = 64, 2000


class Terms(NamedTuple):
    """The contribution of a batch to a likelihood.

    Args:
        nll: (B, S) nats of each example, S independent unbiased draws; one column if the value is exact.
        num_tokens: (B,) real tokens that `nll` covers.
        exact: False where `nll` estimates an upper bound.
    """

    nll: Float[Tensor, "batch samples"]
    num_tokens: Integer[Tensor, " batch"]
    exact: bool


@runtime_checkable
class ExactLoss(Protocol):
    """A loss that gives −log p of every target: `token_nll(batch)` (N,), in the order of `target_ids`."""

    def token_nll(self, batch: Any) -> Tensor: ...


@runtime_checkable
class BoundedLoss(Protocol):
    """A loss that draws from an upper bound on −log p: (B, num_samples) nats, independent across columns."""

    def nll_bound(self, batch: Any, num_samples: int = 1) -> Tensor: ...


@runtime_checkable
class DescribedLoss(Protocol):
    """A loss that names its likelihood and what it covers: `nll_of` completes "−log p of …"."""

    nll_name: str
    nll_of: str


@runtime_checkable
class BatchDescribedLoss(Protocol):
    """A loss whose likelihood depends on how a batch was collated: name and coverage as in `DescribedLoss`."""

    def likelihood_of(self, batch: Any) -> tuple[str, str]: ...


@runtime_checkable
class CodingLoss(Protocol):
    """A loss that gives the tokens covered by its likelihood: (B, L) ids, -100 elsewhere."""

    def coded_ids(self, batch: Any) -> Tensor: ...


class Description(NamedTuple):
    """A likelihood in words: "nll" is the model's own; any other name means something else."""

    name: str = "nll"
    of: str = "the whole sequence under the model"


def description(loss: object, batch: Any = None) -> Description:
    """How a loss describes its likelihood, or that of `batch` if given."""
    if batch is not None and isinstance(loss, BatchDescribedLoss):
        return Description(*loss.likelihood_of(batch))
    return Description(loss.nll_name, loss.nll_of) if isinstance(loss, DescribedLoss) else Description()


def gives_likelihood(loss: object) -> bool:
    """Whether the loss gives a likelihood that `likelihood_terms` can measure."""
    return isinstance(loss, BoundedLoss | ExactLoss)


def coded_ids(loss: object, batch: Any) -> Integer[Tensor, "batch length"]:
    """The tokens covered by a likelihood, -100 elsewhere: from the loss, otherwise the batch's targets."""
    ids: Tensor = loss.coded_ids(batch) if isinstance(loss, CodingLoss) else batch["target_ids"]
    return ids


@torch.no_grad()
def likelihood_terms(loss: object, batch: Any, num_samples: int = 1) -> Terms:
    """Exact or bounded NLL of a batch's examples, whichever the loss offers.

    Raises:
        ConfigError: it offers none.
    """
    if isinstance(loss, BoundedLoss):
        return Terms(loss.nll_bound(batch, num_samples=num_samples).double(), batch["num_tokens"], exact=False)
    if isinstance(loss, ExactLoss):
        is_target = batch["target_ids"] != IGNORE
        per_token = torch.zeros(is_target.shape, dtype=torch.float64, device=is_target.device)
        per_token[is_target] = loss.token_nll(batch).double()
        return Terms(per_token.sum(dim=1, keepdim=True), is_target.sum(dim=1), exact=True)
    raise ConfigError(
        f"{type(loss).__name__} gives no likelihood: it has no token_nll (exact) and no nll_bound (an upper bound)."
    )


def num_bytes(texts: Iterable[str]) -> Integer[Tensor, " batch"]:
    """UTF-8 bytes of each text, the denominator of bits per byte for any tokenizer."""
    return torch.tensor([len(text.encode()) for text in texts], dtype=torch.int64)


@dataclass(frozen=True)
class Likelihood:
    """A corpus' likelihood under a model, exact or an upper bound (see `exact`).

    Args:
        nll: nats per token, Σ NLL / Σ tokens.
        nll_per_sequence, nll_per_sequence_error: nats per example, given its prompt.
        standard_error: of `nll`, over examples drawn from the same source, including the estimator's error.
        estimator_error: the part that more samples per example would remove; NaN for one sample of a bound, 0 if exact.
        bits_per_byte, bits_per_byte_error: None without a number of bytes.
        num_tokens, num_examples, num_samples: the size of the measurement.
    """

    nll: float
    standard_error: float
    estimator_error: float
    nll_per_sequence: float
    nll_per_sequence_error: float
    bits_per_byte: float | None
    bits_per_byte_error: float | None
    num_tokens: int
    num_examples: int
    num_samples: int
    exact: bool

    @property
    def perplexity(self) -> float:
        """exp(NLL per token)."""
        return math.exp(self.nll)

    @property
    def perplexity_error(self) -> float:
        """Standard error of the perplexity, to first order."""
        return self.perplexity * self.standard_error

    def as_dict(self) -> dict[str, float]:
        """Numbers by name, for a table; bits per byte only where known."""
        values = {
            "nll": self.nll,
            "nll_se": self.standard_error,
            "nll_estimator_se": self.estimator_error,
            "nll_per_sequence": self.nll_per_sequence,
            "nll_per_sequence_se": self.nll_per_sequence_error,
            "perplexity": self.perplexity,
            "perplexity_se": self.perplexity_error,
        }
        if self.bits_per_byte is not None and self.bits_per_byte_error is not None:
            values |= {"bits_per_byte": self.bits_per_byte, "bits_per_byte_se": self.bits_per_byte_error}
        return values


class LikelihoodEstimator:
    """Collects examples batch by batch, in float64; the result does not depend on the batches or processes."""

    def __init__(self) -> None:
        self._nll: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._bytes: list[Tensor] = []
        self._exact = True
        self._num_samples = 0

    def update(self, terms: Terms, num_bytes: Shaped[Tensor, " batch"] | None = None) -> None:
        """Count a batch; bytes are given either for all batches or for none."""
        nll = terms.nll.detach().to("cpu", torch.float64)
        if self._nll and nll.shape[1] != self._num_samples:
            raise ValueError(f"A batch has {nll.shape[1]} draws per example, earlier ones have {self._num_samples}.")
        if self._nll and (num_bytes is None) != (not self._bytes):
            raise ValueError("Give bytes for every batch or for none.")
        self._num_samples = nll.shape[1]
        self._nll.append(nll)
        self._tokens.append(terms.num_tokens.detach().to("cpu", torch.float64))
        if num_bytes is not None:
            self._bytes.append(num_bytes.to("cpu", torch.float64))
        self._exact &= terms.exact

    def from_all_ranks(self) -> LikelihoodEstimator:
        """The counts of all processes together, the same on each; every process has to call this."""
        whole = LikelihoodEstimator()
        for part in all_gather_objects(self):
            whole._nll += part._nll
            whole._tokens += part._tokens
            whole._bytes += part._bytes
            whole._exact &= part._exact
            whole._num_samples = max(whole._num_samples, part._num_samples)
        return whole

    def compute(self) -> Likelihood:
        """The likelihood of everything counted; ValueError without examples."""
        if not self._nll:
            raise ValueError("There is no likelihood without examples.")
        draws, tokens = torch.cat(self._nll), torch.cat(self._tokens)
        total = draws.mean(dim=1)
        nll, error = ratio(total, tokens)
        per_sequence, per_sequence_error = ratio(total, torch.ones_like(total))
        bits, bits_error = None, None
        num_bytes = torch.cat(self._bytes) if self._bytes else torch.zeros(1)
        if num_bytes.sum() > 0:
            per_byte, per_byte_error = ratio(total, num_bytes)
            bits, bits_error = per_byte / math.log(2), per_byte_error / math.log(2)
        return Likelihood(
            nll=nll,
            standard_error=error,
            estimator_error=self._estimator_error(draws, tokens),
            nll_per_sequence=per_sequence,
            nll_per_sequence_error=per_sequence_error,
            bits_per_byte=bits,
            bits_per_byte_error=bits_error,
            num_tokens=int(tokens.sum()),
            num_examples=len(tokens),
            num_samples=self._num_samples,
            exact=self._exact,
        )

    def _estimator_error(self, draws: Tensor, tokens: Tensor) -> float:
        """√(Σ var_i / S) / Σ tokens: the error for this fixed corpus."""
        if self._exact:
            return 0.0
        if self._num_samples < 2:
            return math.nan
        return float((draws.var(dim=1) / self._num_samples).sum().sqrt() / tokens.sum())


def ratio(numerator: Float[Tensor, " n"], denominator: Float[Tensor, " n"]) -> tuple[float, float]:
    """Σ a / Σ b and its standard error over independent pairs (a, b), to first order; NaN for a single pair.

    The error of a ratio of means: √(n/(n − 1) · Σ (a − r b)²) / Σ b (Cochran, Sampling Techniques, section 6.3).
    """
    r = numerator.sum() / denominator.sum()
    n = len(numerator)
    if n < 2:
        return float(r), math.nan
    residuals = ((numerator - r * denominator) ** 2).sum() * (n / (n - 1))
    return float(r), float(residuals.sqrt() / denominator.sum())


@dataclass(frozen=True)
class Measured:
    """The likelihood of one loader, its description, and the seconds of the measurement.

    `num_decoded`: examples whose bytes are counted from decoded tokens, because the data lack those of the source
    text; None if tokens are not text.
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
        """What bytes were counted from: `source` texts, `decoded` tokens, or `mixed`; None without bytes."""
        if self.num_decoded is None:
            return None
        return {0: "source", self.likelihood.num_examples: "decoded"}.get(self.num_decoded, "mixed")

    def values(self) -> dict[str, tuple[float, float]]:
        """Name → (value, standard error); if the likelihood has another name, all of them contain it."""
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
        """Everything, JSON-able; an unknown standard error is None."""
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


def draws_for(num_examples: float) -> int:
    """Draws of each example that make 2,000 in all: 2 to 64.

    The distribution of a draw has a long tail, so a standard error from a few dozen draws is too small.
    """
    return int(max(NUM_SAMPLES, min(_MOST_SAMPLES, _ALL_SAMPLES // max(num_examples, 1))))


class LikelihoodPass(Callback):
    """Draws from each example's likelihood, in addition to the usual metrics of the same batches.

    The global random state is not used. The harness must be one of xlm's: its datamodule gives the roles of the
    loaders. A loss without likelihood is skipped.

    Args:
        num_samples: draws of each example; None for `draws_for` the number of examples.
    """

    def __init__(self, num_samples: int | None) -> None:
        self.num_samples = num_samples
        self.measured: dict[str, Measured] = {}
        self._estimators: dict[str, LikelihoodEstimator] = {}
        self._descriptions: dict[str, Description] = {}
        self._seconds: dict[str, float] = {}
        self._draws: dict[str, int] = {}
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
        rows = _rows_of_batch(trainer, split, dataloader_idx, batch_idx)
        if place not in self._draws:
            batches = (trainer.num_test_batches if split == "test" else trainer.num_val_batches)[dataloader_idx]
            num_examples = batches * len(batch["input_ids"]) * trainer.world_size
            self._draws[place] = draws_for(num_examples) if self.num_samples is None else self.num_samples
        with trainer.precision_plugin.forward_context():
            terms = likelihood_terms(loss, batch, self._draws[place])
        self._descriptions[place] = description(loss, batch)
        counted = text_bytes(coded_ids(loss, batch), pl_module.tokenizer, rows)
        self._estimators.setdefault(place, LikelihoodEstimator()).update(terms, counted and counted.num_bytes)
        self._decoded[place] = None if counted is None else (self._decoded.get(place) or 0) + counted.num_decoded
        self._seconds[place] = self._seconds.get(place, 0.0) + time.monotonic() - start

    def _finish(self, pl_module: Any) -> None:
        for place, estimator in self._estimators.items():
            likelihood = estimator.from_all_ranks().compute()
            decoded = [count for count in all_gather_objects(self._decoded[place]) if count is not None]
            self.measured[place] = Measured(
                likelihood,
                self._descriptions[place],
                self._seconds[place],
                sum(decoded) if decoded else None,
            )
        self._estimators, self._seconds, self._decoded = {}, {}, {}


def _rows_of_batch(trainer: Trainer, split: str, dataloader_idx: int, batch_idx: int) -> list[dict[str, Any]]:
    """The rows behind a batch; none if the loader is not one of xlm's."""
    loaders: Any = trainer.test_dataloaders if split == "test" else trainer.val_dataloaders
    loader = loaders[dataloader_idx] if isinstance(loaders, Sequence) else loaders
    return loader.rows_of_batch(batch_idx) if isinstance(loader, EvalLoader) else []


class TextBytes(NamedTuple):
    """UTF-8 bytes of each text of a batch, and the number of texts whose bytes are those of the decoded tokens."""

    num_bytes: Tensor
    num_decoded: int


def text_bytes(
    coded: Integer[Tensor, "batch length"], tokenizer: Any, rows: Sequence[Mapping[str, Any]] = ()
) -> TextBytes | None:
    """UTF-8 bytes of the texts behind the tokens; None if tokens are not text.

    Those of the source text if the row has their number and all its tokens are coded. Otherwise, for instance for a
    text that was cut to its block, those of the decoded coded tokens, without special tokens: if the tokenizer loses
    something, like letter case or unknown characters, the number is inexact.

    Args:
        coded: -100 for tokens that don't count.
        tokenizer: has `is_text = False` if its tokens are only labels of a synthetic task.
        rows: the rows behind the batch, with `input_ids` and `num_bytes`; none if unknown.
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
    """Whether all tokens of a row are coded, apart from special tokens around them."""
    start = 0 if coded[: len(ids)] == ids else 1
    end = start + len(ids)
    return coded[start:end] == ids and marks.issuperset(coded[:start] + coded[end:])


def print_likelihoods(measured: dict[str, Measured], console: Console) -> None:
    """A small table for each loader, with a description of the numbers and their cost."""
    for place, found in measured.items():
        likelihood = found.likelihood
        kind = "exact" if likelihood.exact else "an upper bound on the"
        console.print(f"{place}: {kind} NLL of {found.description.of}", style="italic", soft_wrap=True, highlight=False)
        columns = [Column("likelihood"), Column("value", is_figure=True), Column("± s.e.", is_figure=True)]
        rows = [
            [name.replace("_", " "), f"{value:.4f}", "" if math.isnan(error) else f"{error:.4f}"]
            for name, (value, error) in found.values().items()
        ]
        print_table(console, columns, rows)
        draws = f", {likelihood.num_samples} {'draw' if likelihood.num_samples == 1 else 'draws'} per example"
        draws = "" if likelihood.exact else draws
        counts = (
            f"{likelihood.num_examples:,} examples, {likelihood.num_tokens:,} tokens{draws}{_bytes_in_words(found)}"
        )
        console.print(f"{counts}, {found.seconds:.1f} s", soft_wrap=True, highlight=False)


def _bytes_in_words(found: Measured) -> str:
    """What bytes were counted from, as part of a list; empty without bytes."""
    if found.bytes is None or found.likelihood.bits_per_byte is None:
        return ""
    decoded = f"{found.num_decoded:,} of {found.likelihood.num_examples:,} examples"
    return {
        "source": ", bytes of the source texts",
        "decoded": ", bytes of the decoded tokens (those of the source texts are unknown)",
        "mixed": f", bytes of the source texts, but of the decoded tokens in {decoded}",
    }[found.bytes]

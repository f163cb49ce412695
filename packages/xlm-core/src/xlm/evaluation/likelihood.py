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
from rich.table import Table
from torch import Tensor

from xlm.data.functional import NUM_BYTES
from xlm.data.loaders import EvalLoader
from xlm.errors import ConfigError
from xlm.utils.rank_zero import all_gather_objects

IGNORE = -100


class Terms(NamedTuple):
    """What a batch adds to a likelihood.

    Args:
        nll: (B, S) nats of each example, S independent unbiased draws; one column if the value is exact.
        num_tokens: (B,) real tokens that the value is about.
        exact: False where `nll` estimates an upper bound.
    """

    nll: Float[Tensor, "batch samples"]
    num_tokens: Integer[Tensor, " batch"]
    exact: bool


@runtime_checkable
class ExactLoss(Protocol):
    """A loss that knows −log p of every target: `token_nll(batch)` (N,), in the order of `target_ids`."""

    def token_nll(self, batch: Any) -> Tensor: ...


@runtime_checkable
class BoundedLoss(Protocol):
    """A loss that can draw from an upper bound on −log p: (B, num_samples) nats, independent across columns."""

    def nll_bound(self, batch: Any, num_samples: int = 1) -> Tensor: ...


@runtime_checkable
class DescribedLoss(Protocol):
    """A loss that says what its likelihood is called and whose it is: `nll_of` completes "−log p of …"."""

    nll_name: str
    nll_of: str


@runtime_checkable
class BatchDescribedLoss(Protocol):
    """A loss whose likelihood depends on how a batch was collated: its name and whose it is, as in `DescribedLoss`."""

    def likelihood_of(self, batch: Any) -> tuple[str, str]: ...


@runtime_checkable
class CodingLoss(Protocol):
    """A loss that says which tokens its likelihood is about: (B, L) ids, -100 elsewhere."""

    def coded_ids(self, batch: Any) -> Tensor: ...


class Description(NamedTuple):
    """A likelihood in words: "nll" is the model's own, any other name says that it is something else."""

    name: str = "nll"
    of: str = "the whole sequence under the model"


def description(loss: object, batch: Any = None) -> Description:
    """What a loss says of its likelihood; of a batch's, where one is given."""
    if batch is not None and isinstance(loss, BatchDescribedLoss):
        return Description(*loss.likelihood_of(batch))
    return Description(loss.nll_name, loss.nll_of) if isinstance(loss, DescribedLoss) else Description()


def gives_likelihood(loss: object) -> bool:
    """Whether `likelihood_terms` can measure with this loss."""
    return isinstance(loss, BoundedLoss | ExactLoss)


def coded_ids(loss: object, batch: Any) -> Integer[Tensor, "batch length"]:
    """The tokens that a likelihood is about, -100 elsewhere: what the loss says, else the batch's targets."""
    ids: Tensor = loss.coded_ids(batch) if isinstance(loss, CodingLoss) else batch["target_ids"]
    return ids


@torch.no_grad()
def likelihood_terms(loss: object, batch: Any, num_samples: int = 1) -> Terms:
    """Exact or bounded NLL of a batch's examples, whichever the loss offers.

    Raises:
        ConfigError: it offers neither.
    """
    if isinstance(loss, BoundedLoss):
        return Terms(loss.nll_bound(batch, num_samples=num_samples).double(), batch["num_tokens"], exact=False)
    if isinstance(loss, ExactLoss):
        is_target = batch["target_ids"] != IGNORE
        per_token = torch.zeros(is_target.shape, dtype=torch.float64, device=is_target.device)
        per_token[is_target] = loss.token_nll(batch).double()
        return Terms(per_token.sum(dim=1, keepdim=True), is_target.sum(dim=1), exact=True)
    raise ConfigError(
        f"{type(loss).__name__} gives no likelihood: it has neither token_nll (exact) nor nll_bound (an upper bound)."
    )


def num_bytes(texts: Iterable[str]) -> Integer[Tensor, " batch"]:
    """UTF-8 bytes of each text: what bits per byte divide by, whatever the tokenizer."""
    return torch.tensor([len(text.encode()) for text in texts], dtype=torch.int64)


@dataclass(frozen=True)
class Likelihood:
    """A corpus' likelihood under a model; everything is exact or an upper bound, as `exact` says.

    Args:
        nll: nats per token, Σ NLL / Σ tokens.
        nll_per_sequence, nll_per_sequence_error: nats per example, prompts given.
        standard_error: of `nll`, over examples drawn from the same source; what the estimator adds is in it.
        estimator_error: the part that more samples per example would remove; NaN for one sample of a bound, 0 if exact.
        bits_per_byte, bits_per_byte_error: None without a number of bytes.
        num_tokens, num_examples, num_samples: what it was measured on.
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
    """Collects examples batch by batch, in float64; the result depends neither on batches nor on processes."""

    def __init__(self) -> None:
        self._nll: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._bytes: list[Tensor] = []
        self._exact = True
        self._num_samples = 0

    def update(self, terms: Terms, num_bytes: Shaped[Tensor, " batch"] | None = None) -> None:
        """Count a batch; bytes are given for all batches or for none."""
        nll = terms.nll.detach().to("cpu", torch.float64)
        if self._nll and nll.shape[1] != self._num_samples:
            raise ValueError(f"A batch has {nll.shape[1]} draws per example, the ones before it {self._num_samples}.")
        if self._nll and (num_bytes is None) != (not self._bytes):
            raise ValueError("Bytes are needed for every batch or for none.")
        self._num_samples = nll.shape[1]
        self._nll.append(nll)
        self._tokens.append(terms.num_tokens.detach().to("cpu", torch.float64))
        if num_bytes is not None:
            self._bytes.append(num_bytes.to("cpu", torch.float64))
        self._exact &= terms.exact

    def from_all_ranks(self) -> LikelihoodEstimator:
        """What all processes together have counted, the same on each; every one of them has to call this."""
        whole = LikelihoodEstimator()
        for part in all_gather_objects(self):
            whole._nll += part._nll
            whole._tokens += part._tokens
            whole._bytes += part._bytes
            whole._exact &= part._exact
            whole._num_samples = max(whole._num_samples, part._num_samples)
        return whole

    def compute(self) -> Likelihood:
        """The likelihood of everything counted; ValueError if that is nothing."""
        if not self._nll:
            raise ValueError("No examples: there is no likelihood to compute.")
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
        """√(Σ var_i / S) / Σ tokens: the error for this very corpus."""
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
            decoded = [count for count in all_gather_objects(self._decoded[place]) if count is not None]
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

"""One comparable number for all families: NLL per token, perplexity, bits per byte, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from xlm.errors import ConfigError
from xlm.utils.rank_zero import gathered

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
        for part in gathered(self):
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

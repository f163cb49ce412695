"""One number for a corpus: the same for any batches, with correct error estimates."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xlm.errors import ConfigError
from xlm.evaluation.likelihood import (
    Likelihood,
    LikelihoodEstimator,
    Terms,
    coded_ids,
    description,
    draws_for,
    gives_likelihood,
    likelihood_terms,
    num_bytes,
    ratio,
)


def estimate(nll: Tensor, tokens: Tensor, batch_size: int = 7, exact: bool = False, **options: Any) -> Likelihood:
    estimator = LikelihoodEstimator()
    lengths = options.get("num_bytes")
    for start in range(0, len(nll), batch_size):
        here = slice(start, start + batch_size)
        estimator.update(Terms(nll[here], tokens[here], exact), None if lengths is None else lengths[here])
    return estimator.compute()


def test_sums_over_sums_whatever_the_batches() -> None:
    nll = torch.tensor([[2.0], [9.0], [0.0]])
    tokens = torch.tensor([1, 9, 0])
    for batch_size in (1, 2, 3):
        result = estimate(nll, tokens, batch_size, exact=True, num_bytes=torch.tensor([4, 40, 0]))
        assert result.nll == pytest.approx(11 / 10)
        assert result.perplexity == pytest.approx(math.exp(1.1))
        assert result.bits_per_byte == pytest.approx(11 / 44 / math.log(2))
        assert (result.num_tokens, result.num_examples, result.num_samples, result.exact) == (10, 3, 1, True)
        assert result.estimator_error == 0
        assert result.nll_per_sequence == pytest.approx(11 / 3)
        assert result.nll_per_sequence_error == pytest.approx(torch.std(nll).item() / math.sqrt(3))
        assert {"nll", "nll_se", "perplexity", "perplexity_se", "bits_per_byte", "bits_per_byte_se"} <= set(
            result.as_dict()
        )
    assert "bits_per_byte" not in estimate(nll, tokens).as_dict()


def corpus(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, 30, (n,), generator=generator)
    return tokens * (1 + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)), tokens


def test_the_standard_error_covers_new_examples_and_the_estimators_noise() -> None:
    """Over 400 corpora of 50 examples with noisy draws, the value spreads as the errors say."""
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(400):
        nll, tokens = corpus(50, generator)
        noisy = nll[:, None] + 8 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
        result = estimate(noisy, tokens)
        values.append(result.nll)
        errors.append(result.standard_error)
    assert torch.tensor(values).std() == pytest.approx(sum(errors) / 400, rel=0.12)


def test_the_estimator_error_covers_new_draws_on_the_same_corpus() -> None:
    generator = torch.Generator().manual_seed(1)
    nll, tokens = corpus(50, generator)
    results = [
        estimate(nll[:, None] + 8 * torch.randn(50, 4, generator=generator, dtype=torch.float64), tokens)
        for _ in range(400)
    ]
    spread = torch.tensor([r.nll for r in results]).std()
    assert spread == pytest.approx(sum(r.estimator_error for r in results) / 400, rel=0.12)
    assert all(r.estimator_error < r.standard_error for r in results)
    assert math.isnan(estimate(nll[:, None], tokens).estimator_error)


def test_a_single_example_has_no_standard_error() -> None:
    value, error = ratio(torch.tensor([3.0]), torch.tensor([2.0]))
    assert value == 1.5
    assert math.isnan(error)


def test_bytes_are_those_of_the_text() -> None:
    assert num_bytes(["abc", "αβ", ""]).tolist() == [3, 4, 0]


class Exact:
    def token_nll(self, batch: Any) -> Tensor:
        return torch.tensor([1.0, 2.0, 4.0])


class Bounded:
    def nll_bound(self, batch: Any, num_samples: int = 1) -> Tensor:
        return torch.ones(2, num_samples)


def test_terms_are_exact_or_a_bound_by_what_the_loss_offers() -> None:
    batch = {"target_ids": torch.tensor([[5, -100, 6], [-100, -100, 7]]), "num_tokens": torch.tensor([3, 1])}
    exact = likelihood_terms(Exact(), batch)
    assert (exact.nll.tolist(), exact.num_tokens.tolist(), exact.exact) == ([[3.0], [4.0]], [2, 1], True)
    bound = likelihood_terms(Bounded(), batch, num_samples=3)
    assert (tuple(bound.nll.shape), bound.num_tokens.tolist(), bound.exact) == ((2, 3), [3, 1], False)
    assert bound.nll.dtype == torch.float64
    with pytest.raises(ConfigError, match="object gives no likelihood"):
        likelihood_terms(object(), batch)


def test_mixtures_are_refused() -> None:
    estimator = LikelihoodEstimator()
    with pytest.raises(ValueError, match="no likelihood without examples"):
        estimator.compute()
    estimator.update(Terms(torch.ones(1, 2), torch.ones(1).long(), False))
    with pytest.raises(ValueError, match="A batch has 3 draws per example, earlier ones have 2"):
        estimator.update(Terms(torch.ones(1, 3), torch.ones(1).long(), False))
    with pytest.raises(ValueError, match="for every batch or for none"):
        estimator.update(Terms(torch.ones(1, 2), torch.ones(1).long(), False), torch.ones(1))


class Described(Bounded):
    nll_name = "sampler_nll_bound"
    nll_of = "a sampler"

    def coded_ids(self, batch: Any) -> Tensor:
        return batch["clean"]


def test_a_loss_may_say_what_its_likelihood_is_about() -> None:
    batch = {"target_ids": torch.tensor([[1, -100]]), "clean": torch.tensor([[1, 2]])}
    assert description(Described()) == ("sampler_nll_bound", "a sampler")
    assert coded_ids(Described(), batch).tolist() == [[1, 2]]
    assert description(Exact()) == ("nll", "the whole sequence under the model")
    assert coded_ids(Exact(), batch).tolist() == [[1, -100]]
    assert [gives_likelihood(loss) for loss in (Exact(), Bounded(), object())] == [True, True, False]


def test_rows_without_any_text_have_no_bits_per_byte() -> None:
    assert estimate(torch.ones(2, 1), torch.ones(2), num_bytes=torch.zeros(2)).bits_per_byte is None


SCRIPT = """
import sys
import torch
from xlm.evaluation.likelihood import LikelihoodEstimator, Terms

rank, path = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=2)
nll, tokens = torch.load(f"{path}.corpus")
own = slice(0, 7) if rank == 0 else slice(7, 20)
estimator = LikelihoodEstimator()
estimator.update(Terms(nll[own, None], tokens[own], exact=False), tokens[own])
torch.save(estimator.from_all_ranks().compute().as_dict(), f"{path}.{rank}")
torch.distributed.destroy_process_group()
"""


def test_processes_together_count_what_one_would(tmp_path: Path) -> None:
    path = tmp_path / "found"
    nll, tokens = corpus(20, torch.Generator().manual_seed(0))
    torch.save((nll, tokens), f"{path}.corpus")
    command = [sys.executable, "-c", SCRIPT]
    ranks = [subprocess.Popen([*command, str(rank), str(path)], stderr=subprocess.PIPE) for rank in range(2)]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    alone = estimate(nll[:, None], tokens, num_bytes=tokens).as_dict()
    for rank in range(2):
        assert torch.load(f"{path}.{rank}") == pytest.approx(alone, rel=1e-12, nan_ok=True)


def test_few_examples_are_drawn_more_often() -> None:
    assert [draws_for(n) for n in (0, 1, 31, 27 * 2, 500, 1000, 5000, float("inf"))] == [64, 64, 64, 37, 4, 2, 2, 2]

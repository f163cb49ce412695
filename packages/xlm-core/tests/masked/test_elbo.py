"""The NELBO on 3 tokens and 4 positions, against enumeration: unbiased, a bound, exact for order-agnostic models."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from xlm.masked.elbo import batch_bound, clean_ids, coded_ids, nelbo_draws

MASK, LENGTH, VOCAB = 3, 4, 3
POWERS = 4 ** torch.arange(LENGTH - 1, -1, -1)


def scorer(table: Tensor, slope: float = 0.0) -> Any:
    """−log p from a table of conditionals (4^4, 4, V); with a slope, one that depends on the rate as well."""

    def masked_nll(ids: Tensor, rate: Tensor, index: Tensor, targets: Tensor) -> Tensor:
        log_p = table[(ids * POWERS).sum(-1)].reshape(-1, table.shape[-1])[index, targets]
        return -log_p + slope * rate[index // LENGTH]

    return masked_nll


def enumerated(table: Tensor, x: Tensor) -> Tensor:
    """NELBO of every row: Σ over sets S of masked positions of B(|S|, n − |S| + 1) · Σ_{i ∈ S} −log p(x_i | rest)."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for size in range(1, LENGTH + 1):
        weight = math.factorial(size - 1) * math.factorial(LENGTH - size) / math.factorial(LENGTH)
        for positions in itertools.combinations(range(LENGTH), size):
            z = x.clone()
            z[:, list(positions)] = MASK
            log_p = table[(z * POWERS).sum(-1)].gather(-1, x[:, :, None]).squeeze(-1)
            total -= weight * log_p[:, list(positions)].sum(1)
    return total


def any_order_nll(table: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over orders of −log p(x in that order), and −log of the mean of p: what sampling really gives."""
    log_ps = []
    for order in itertools.permutations(range(LENGTH)):
        z, log_p = torch.full_like(x, MASK), torch.zeros(len(x), dtype=torch.float64)
        for position in order:
            log_p += table[(z * POWERS).sum(-1)][:, position].gather(-1, x[:, position, None]).squeeze(-1)
            z[:, position] = x[:, position]
        log_ps.append(log_p)
    stacked = torch.stack(log_ps)
    return -stacked.mean(0), math.log(len(stacked)) - stacked.logsumexp(0)


def draws(table: Tensor, x: Tensor, num_samples: int, slope: float = 0.0, **options: Any) -> Tensor:
    """(len(x), num_samples), two draws per call and the rest from copies of the rows, which is faster."""
    many = x.repeat_interleave(num_samples // 2, 0)
    everything = torch.ones_like(many, dtype=torch.bool)
    seeds = torch.arange(len(many))
    drawn = nelbo_draws(scorer(table, slope), many, everything, everything, seeds, MASK, 2, **options)
    return drawn.reshape(len(x), -1)


@pytest.fixture
def table() -> Tensor:
    """A model whose predictions depend on the order: no joint distribution has these conditionals."""
    torch.manual_seed(3)
    return torch.randn(4**LENGTH, LENGTH, VOCAB, dtype=torch.float64).mul(1.5).log_softmax(-1)


@pytest.mark.parametrize("method", ["counts", "rates"])
@pytest.mark.parametrize("num_points", [1, 4])
def test_draws_are_unbiased(method: Any, num_points: int, table: Tensor, oracle: Any) -> None:
    x = oracle.sequences[::7]
    drawn = draws(table, x, 3000, method=method, num_points=num_points)
    error = drawn.std(1) / 3000**0.5
    z = (drawn.mean(1) - enumerated(table, x)) / error
    assert float(z.abs().max()) < 4
    # The whole corpus, where errors average out, within three standard errors.
    assert abs(float((drawn.mean() - enumerated(table, x).mean()) / (error.square().sum().sqrt() / len(x)))) < 3


def test_the_nelbo_is_the_mean_over_orders_and_bounds_the_true_nll(table: Tensor, oracle: Any) -> None:
    x = oracle.sequences
    mean, true = any_order_nll(table, x)
    torch.testing.assert_close(enumerated(table, x), mean)
    assert (mean >= true - 1e-12).all()
    assert float((mean - true).max()) > 0.1  # and not by equality
    torch.testing.assert_close((-true).exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_an_order_agnostic_models_bound_is_its_nll_and_every_set_of_counts_gives_it(oracle: Any) -> None:
    x = oracle.sequences
    exact = -oracle.joint.log()
    torch.testing.assert_close(enumerated(oracle.table, x), exact)
    drawn = draws(oracle.table, x, 2000)
    z = (drawn.mean(1) - exact) / (drawn.std(1) / 2000**0.5)
    assert float(z.abs().max()) < 4.5


@pytest.mark.parametrize("method", ["counts", "rates"])
def test_the_rate_given_to_the_network_has_the_right_law(method: Any, oracle: Any) -> None:
    """With a loss of one per unit of rate and mask: ∫ (1/m) · E[#masked] · m dm = n/2, over log p that adds nothing."""
    flat = torch.zeros_like(oracle.table)
    drawn = draws(flat, oracle.sequences[:5], 4000, slope=1.0, method=method, num_points=2)
    assert float(drawn.mean()) == pytest.approx(LENGTH / 2, abs=0.05)


def test_stratified_counts_vary_less_than_rates(oracle: Any) -> None:
    x = oracle.sequences[:40]
    spread = {
        (method, points): float(draws(oracle.table, x, 400, method=method, num_points=points).var(1).mean())
        for method in ("counts", "rates")
        for points in (1, 4)
    }
    assert spread["counts", 1] < spread["rates", 1]
    assert spread["counts", 4] < spread["counts", 1] / 3
    assert spread["rates", 4] < spread["rates", 1] / 3


def test_rows_draw_alone_what_they_draw_together_and_unmaskable_ones_nothing(oracle: Any) -> None:
    x = oracle.sequences[:6]
    maskable = torch.ones_like(x, dtype=torch.bool)
    maskable[3] = False
    everything = torch.ones_like(maskable)
    options = {"mask_token_id": MASK, "num_samples": 3, "num_points": 4}
    together = nelbo_draws(scorer(oracle.table), x, maskable, everything, torch.arange(6) * 5, **options)
    for row in range(6):
        here = slice(row, row + 1)
        alone = nelbo_draws(
            scorer(oracle.table), x[here], maskable[here], everything[here], torch.arange(6)[here] * 5, **options
        )
        torch.testing.assert_close(alone, together[here])
    assert (together[3] == 0).all()

    def unit_rates(ids: Tensor, rate: Tensor, index: Tensor, targets: Tensor) -> Tensor:
        assert ((rate > 0) & (rate <= 1)).all()  # also that of the row without a mask
        return torch.zeros(len(index), dtype=torch.float64)

    nelbo_draws(unit_rates, x, maskable, everything, torch.arange(6), MASK)
    usual = nelbo_draws(scorer(oracle.table), x, maskable, everything, torch.arange(6) * 5, MASK)
    torch.testing.assert_close(usual, together[:, :1])  # the first of several draws, of four points


def varied(maskable: list[bool], num_points: int, seeds: int = 50, nll: Any = None, **options: Any) -> Tensor:
    """(sequences, seeds) draws of three sequences, of which only some tokens may be masked."""
    x = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1], [1, 0, 0, 2]])
    many = x.repeat_interleave(seeds, 0)
    everything = torch.ones_like(many, dtype=torch.bool)
    here = {name: torch.tensor([value]).expand_as(many) for name, value in options.items()}
    rows = torch.tensor([maskable]).expand_as(many)
    drawn = nelbo_draws(nll, many, rows, everything, torch.arange(len(many)), MASK, 1, num_points, **here)
    return drawn.reshape(len(x), seeds)


def enumerated_sets(table: Tensor, x: Tensor, places: list[int]) -> Tensor:
    """`enumerated` where only tokens at `places` are masked."""
    total, n = torch.zeros(len(x), dtype=torch.float64), len(places)
    for size in range(1, n + 1):
        weight = math.factorial(size - 1) * math.factorial(n - size) / math.factorial(n)
        for chosen in map(list, itertools.combinations(places, size)):
            z = x.clone()
            z[:, chosen] = MASK
            log_p = table[(z * POWERS).sum(-1)].gather(-1, x[:, :, None]).squeeze(-1)
            total -= weight * log_p[:, chosen].sum(1)
    return total


@pytest.mark.parametrize("places", [[2], [0, 3], [1, 2], [0, 1, 3]])
def test_rows_with_as_many_sets_of_masks_as_points_are_exact_and_others_are_drawn(
    places: list[int], table: Tensor
) -> None:
    maskable = [position in places for position in range(LENGTH)]
    num_sets = 2 ** len(places) - 1
    exact = enumerated_sets(table, torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1], [1, 0, 0, 2]]), places)
    for num_points in (num_sets, num_sets + 1):
        drawn = varied(maskable, num_points, nll=scorer(table))
        torch.testing.assert_close(drawn, exact[:, None].expand_as(drawn))
    if num_sets > 1:
        drawn = varied(maskable, num_sets - 1, 1000, nll=scorer(table))
        assert (drawn.std(1) > 0).all()
        assert ((drawn.mean(1) - exact).abs() < 4.5 * drawn.std(1) / 1000**0.5).all()


@pytest.mark.parametrize("num_points", [1, 4])
def test_hidden_masks_count_in_the_rate(num_points: int, oracle: Any) -> None:
    """The (k + h)-th of n + h times: n times the mean over k of (k + h)/(n + h + 1), for n = h = 2."""
    slope = scorer(torch.zeros_like(oracle.table), 1.0)
    drawn = varied([True, False, True, False], num_points, 2000, slope, hidden=[False, True, False, True])
    assert float(drawn.mean()) == pytest.approx(2 * 3.5 / 5, abs=0.03)


def test_unpaid_tokens_are_masked_and_cost_nothing() -> None:
    def one_each(ids: Tensor, rate: Tensor, index: Tensor, targets: Tensor) -> Tensor:
        assert (ids.reshape(-1)[index] == MASK).all()
        assert not (index % LENGTH == 2).any()
        seen.append(bool((ids[:, 2] == MASK).any()))
        return torch.ones(len(index), dtype=torch.float64)

    seen: list[bool] = []
    drawn = varied([True, False, True, False], 4, nll=one_each, unpaid=[False, False, True, False])
    torch.testing.assert_close(drawn, torch.ones_like(drawn))
    assert any(seen)


def test_an_unknown_method_is_named(oracle: Any) -> None:
    with pytest.raises(ValueError, match=r"Unknown method 'exact'\. Choices: counts, rates\."):
        draws(oracle.table, oracle.sequences[:1], 2, method="exact")


def test_the_bound_of_a_batch_leaves_out_its_padding_and_knows_its_hidden_masks() -> None:
    """Two of three maskable tokens are real, so each draw is their cost: 1 for the first, 10 for the second."""
    batch = {
        "input_ids": torch.tensor([[MASK, MASK, 9, MASK]]),
        "target_ids": torch.tensor([[2, 1, -100, -100]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1]]),
        "maskable": torch.tensor([[True, True, True, False]]),
        "hidden": torch.tensor([[False, False, False, True]]),
        "num_tokens": torch.tensor([2]),
        "noise_seed": torch.tensor([5]),
        "text_length": "lm1b_protocol",
    }
    assert coded_ids(batch, pad_token_id=8).tolist() == [[2, 1, -100, -100]]
    rates = []

    def masked_nll(ids: Tensor, rate: Tensor, index: Tensor, targets: Tensor) -> Tensor:
        assert ids[0, 2] in (8, MASK)
        rates.append(float(rate))
        return torch.where(targets == 2, 1.0, 10.0)

    tokenizer: Any = SimpleNamespace(pad_token_id=8, mask_token_id=MASK)
    drawn = batch_bound(masked_nll, batch, None, tokenizer, 2, 7, "counts")
    torch.testing.assert_close(drawn, torch.full((1, 2), 11.0, dtype=torch.float64))
    without = rates.copy()
    rates.clear()
    batch_bound(masked_nll, {**batch, "hidden": None}, None, tokenizer, 2, 7, "counts")
    assert sum(rates) < sum(without)  # of one mask less


def test_clean_ids_undo_the_masks() -> None:
    batch = {"input_ids": torch.tensor([[MASK, 1]]), "target_ids": torch.tensor([[2, -100]])}
    assert clean_ids(batch, pad_token_id=9).tolist() == [[2, 1]]
    rows = {"maskable": torch.tensor([[True, True]]), "num_tokens": torch.tensor([1]), "text_length": "lm1b_protocol"}
    assert clean_ids({**batch, **rows}, pad_token_id=9).tolist() == [[2, 9]]

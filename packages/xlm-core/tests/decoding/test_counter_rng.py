"""Random numbers by address: uniform, independent, and never dependent on neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from xlm.data.hashing import splitmix64
from xlm.decoding.counter_rng import (
    Stream,
    derive,
    draw_tokens,
    gumbel,
    gumbel_argmax,
    mix,
    row_seeds,
    token_keys,
    uniform,
)
from xlm.sampling import LogitsSampler


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    x = torch.randint(-(2**63), 2**63 - 1, (1000,))
    wanted = splitmix64(x.numpy().view(np.uint64)).view(np.int64)
    assert torch.equal(mix(x), torch.from_numpy(wanted))


@pytest.mark.parametrize("axis", ["seeds", "counters", "streams"])
def test_uniform_fills_its_interval_evenly_along_every_axis(axis: str) -> None:
    n = 40_000
    numbers = torch.arange(n)
    if axis == "seeds":
        u = uniform(numbers, Stream.TIME)
    elif axis == "counters":
        u = uniform(torch.tensor(5), Stream.TIME, numbers)
    else:
        u = torch.cat([uniform(numbers[: n // len(Stream)], stream) for stream in Stream])
    counts = torch.histc(u, bins=50, min=0, max=1)
    expected = len(u) / 50
    assert float(((counts - expected) ** 2 / expected).sum()) < 49 + 4.5 * (2 * 49) ** 0.5
    # Neighbours are uncorrelated.
    assert abs(float(torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1])) < 4.5 / n**0.5


def test_streams_and_seeds_are_independent() -> None:
    seeds = torch.arange(40_000)
    a, b = uniform(seeds, Stream.MASK), uniform(seeds, Stream.ORDER)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4.5 / len(seeds) ** 0.5
    # Seeds that differ by one, as many users choose them, with counters shifted against each other.
    a, b = uniform(torch.tensor(7), Stream.MASK, seeds + 1), uniform(torch.tensor(8), Stream.MASK, seeds)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4.5 / len(seeds) ** 0.5


def test_parts_of_small_seeds_are_all_different() -> None:
    """With one round of mixing, part 1 of seed 2 would be part 2 of seed 1."""
    parts = derive(torch.arange(300)[:, None], torch.arange(300))
    assert len(parts.unique()) == 300 * 300
    seeds = torch.stack([row_seeds(100, seed, torch.arange(100)) for seed in range(100)])
    assert len(seeds.unique()) == 100 * 100


def test_uniform_is_float64_and_never_touches_an_end() -> None:
    u = uniform(torch.arange(10_000), Stream.TIME)
    assert u.dtype == torch.float64
    assert 0 < float(u.min()) < float(u.max()) < 1


def test_uniform_on_the_cpu_has_the_numbers_that_other_devices_draw_and_that_it_had_before() -> None:
    seeds = torch.tensor([[0], [7], [2**62 + 3], [-5]])
    counters = torch.arange(-2, 40)
    keys = mix(mix(seeds) ^ int(Stream.MASK))
    assert torch.equal(derive(seeds, int(Stream.MASK)), keys)
    assert torch.equal(derive(seeds, counters), mix(mix(seeds) ^ counters))
    assert derive(seeds[1, 0], torch.tensor(3)) == derive(seeds, 3)[1, 0]
    whole = (mix(keys + counters) >> 12) & (2**52 - 1)
    assert torch.equal(uniform(seeds, Stream.MASK, counters), (whole.double() + 0.5) * 2.0**-52)
    assert uniform(seeds[1, 0], Stream.MASK, 3) == uniform(seeds, Stream.MASK, counters)[1, 5]
    # A resumed run has to see the noise with which it began, whatever is installed in between.
    assert uniform(torch.tensor([1, 2**63 - 1]), Stream.ORDER, torch.tensor([0, 5])).tolist() == [
        0.8323609501268626,
        0.16867411626581996,
    ]


def test_gumbel_has_the_right_mean_and_variance() -> None:
    g = gumbel(torch.tensor(1), Stream.TOKEN, torch.arange(100_000))
    assert abs(float(g.mean()) - 0.5772) < 0.02
    assert abs(float(g.var()) - np.pi**2 / 6) < 0.05


def test_argmax_with_gumbel_noise_follows_the_softmax() -> None:
    logits = torch.tensor([2.0, 0.0, -1.0, 0.5, -torch.inf])
    n = 40_000
    drawn = gumbel_argmax(logits.expand(n, -1), token_keys(torch.arange(n), 0))
    observed, expected = torch.bincount(drawn, minlength=5).double(), logits.double().softmax(0) * n
    assert observed[4] == 0
    assert float(((observed - expected) ** 2 / expected)[:4].sum()) < 20


def test_a_token_is_where_its_noise_makes_the_logit_largest() -> None:
    logits, seeds, counters = torch.randn(9, 50), torch.arange(9), torch.arange(9) * 3
    noise = gumbel(derive(seeds, counters)[:, None], Stream.TOKEN, torch.arange(50))
    keys = token_keys(seeds, counters)
    assert torch.equal(gumbel_argmax(logits, keys), (logits + noise).argmax(-1))
    assert torch.equal(gumbel_argmax(torch.zeros(9, 50), keys), noise.argmax(-1))
    assert gumbel_argmax(torch.full((9, 50), -torch.inf), keys).tolist() == [0] * 9


def test_chunks_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, keys = torch.randn(9, 50), token_keys(torch.arange(9), torch.arange(9) * 3)
    whole = gumbel_argmax(logits, keys)
    monkeypatch.setattr("xlm.decoding.counter_rng._LOGITS_AT_ONCE", 100)
    assert torch.equal(gumbel_argmax(logits, keys), whole)
    assert gumbel_argmax(logits[:0], keys[:0]).shape == (0,)


def test_row_seeds_follow_the_example_or_else_seed_and_row() -> None:
    own = torch.tensor([11, 12, 11])
    seeds = row_seeds(3, 5, own)
    assert seeds[0] == seeds[2] != seeds[1]
    assert not torch.equal(seeds, row_seeds(3, 6, own))
    assert torch.equal(row_seeds(4, 5)[:2], row_seeds(2, 5))
    assert len(row_seeds(1000, 5).unique()) == 1000
    torch.manual_seed(0)
    first = row_seeds(2)
    assert not torch.equal(row_seeds(2), first)
    torch.manual_seed(0)
    assert torch.equal(row_seeds(2), first)


@pytest.mark.parametrize("num_ids", [40, 300, 5000])
@pytest.mark.parametrize("has_ties", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"top_k": 5}, {"top_k": 50, "top_p": 0.9}, {"top_p": 0.9}, {"top_p": 0.5, "min_p": 0.1, "temperature": 0.7},
     {"top_k": 10**6, "top_p": 0.8}, {"min_p": 0.2}],
)  # fmt: skip
def test_draws_among_few_tokens_are_those_among_all(num_ids: int, has_ties: bool, options: dict[str, Any]) -> None:
    """Flat and peaked rows, so that some nuclei lie among the likeliest tokens and others do not."""
    scale = torch.tensor([0.0, 0.3, 1.0, 3.0, 8.0]).repeat_interleave(30)[:, None]
    logits = torch.randn(150, num_ids, generator=torch.Generator().manual_seed(0)) * scale
    logits[:, 7] = -torch.inf
    logits = logits.round() if has_ties else logits
    sampler, keys = LogitsSampler(**options), token_keys(torch.arange(150), 3)
    expected = gumbel_argmax(sampler.filter(logits), keys)
    assert torch.equal(draw_tokens(sampler, logits, keys), expected)

"""Filters keep what they promise, draws follow the distribution, and positions are chosen exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xlm.sampling import (
    CONFIDENCES,
    Confidence,
    LogitsSampler,
    add_exp_1_noise,
    add_gumbel_noise,
    confidence_bound,
    confidence_scores,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    sample_categorical,
    sample_from_logits,
    sample_from_top_k,
    sample_from_top_p,
    select_random_indices,
)

PROBS = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.float64)
DRAWS = 40_000
# Five standard deviations of a frequency around 1/2 over DRAWS draws.
TOLERANCE = 5 * 0.5 / DRAWS**0.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frequencies(draw: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    ids = draw(values.expand(DRAWS, -1))
    return torch.bincount(ids, minlength=values.shape[-1]).double() / DRAWS


@st.composite
def logits_of_any_shape(draw: st.DrawFn) -> Tensor:
    shape = [*draw(st.lists(st.integers(1, 3), max_size=2)), draw(st.integers(2, 12))]
    seed = draw(st.integers(0, 2**31))
    values = torch.randn(shape, generator=seeded(seed)) * draw(st.floats(0.1, 20))
    # Rounded, so that ties are common.
    return values.round() if draw(st.booleans()) else values


@settings(deadline=None)
@given(logits_of_any_shape(), st.integers(1, 14))
def test_top_k_keeps_exactly_the_k_largest(logits: Tensor, k: int) -> None:
    kept = keep_top_k(logits, k)
    alive = kept.isfinite()
    assert (alive.sum(-1) == min(k, logits.shape[-1])).all()
    assert torch.equal(kept[alive], logits[alive])
    smallest_kept = torch.where(alive, logits, torch.inf).amin(-1)
    largest_dropped = torch.where(alive, -torch.inf, logits).amax(-1)
    assert (smallest_kept >= largest_dropped).all()
    assert torch.equal(keep_top_k(logits, 1).argmax(-1), logits.argmax(-1))


@settings(deadline=None)
@given(logits_of_any_shape(), st.floats(0.01, 1.0))
def test_top_p_keeps_the_crossing_token_and_no_more(logits: Tensor, p: float) -> None:
    alive = keep_top_p(logits, p).isfinite()
    probs = logits.double().softmax(-1)
    mass = torch.where(alive, probs, 0).sum(-1)
    assert (mass >= p - 1e-9).all()
    # Without its least likely token, the nucleus falls short of p.
    least = torch.where(alive, probs, torch.inf).amin(-1)
    assert ((mass - least < p + 1e-9) | (p == 1)).all()
    assert alive.any(-1).all()


def test_top_p_one_keeps_everything() -> None:
    logits = torch.tensor([50.0, 0.0, -50.0, -700.0])
    assert torch.equal(keep_top_p(logits, 1.0), logits)


@settings(deadline=None)
@given(logits_of_any_shape(), st.floats(0.0, 1.0))
def test_min_p_compares_with_the_best(logits: Tensor, min_p: float) -> None:
    alive = keep_min_p(logits, min_p).isfinite()
    probs = logits.double().softmax(-1)
    ratio = probs / probs.amax(-1, keepdim=True)
    assert (alive | (ratio < min_p * (1 + 1e-4) + 1e-12)).all()
    assert (~alive | (ratio > min_p * (1 - 1e-4) - 1e-12)).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: sample_from_logits(x.log(), generator=seeded()),
        lambda x: sample_categorical(x, generator=seeded()),
        lambda x: sample_categorical(x * 7, generator=seeded()),
        lambda x: sample_from_logits(x.log() * 2, temperature=2.0, generator=seeded()),
        lambda x: add_gumbel_noise(x.log(), generator=seeded()).argmax(-1),
        lambda x: add_exp_1_noise(x**2, temperature=2.0, generator=seeded()).argmax(-1),
        lambda x: LogitsSampler()(x.log(), seeded()),
    ],
)
def test_draws_follow_the_distribution(draw: Callable[[Tensor], Tensor]) -> None:
    assert (frequencies(draw, PROBS) - PROBS).abs().max() < TOLERANCE


def test_filters_act_on_logits_before_the_draw() -> None:
    two = PROBS * torch.tensor([1, 1, 0, 0, 0])
    two = two / two.sum()
    for sampled in (
        frequencies(lambda x: sample_from_top_k(2, x, generator=seeded()), PROBS.log()),
        frequencies(lambda x: sample_from_top_p(0.6, x, generator=seeded()), PROBS.log()),
        frequencies(lambda x: LogitsSampler(min_p=0.4)(x, seeded()), PROBS.log()),
    ):
        assert (sampled - two).abs().max() < TOLERANCE


def test_temperature_comes_before_the_nucleus() -> None:
    # At temperature 1/2 the best token alone holds more than 0.6.
    assert (sample_from_top_p(0.6, PROBS.log().expand(1000, -1), temperature=0.5) == 0).all()


@pytest.mark.parametrize(
    "sampler",
    [
        LogitsSampler(temperature=0, top_k=5),
        LogitsSampler(temperature=0),
        LogitsSampler(top_k=1),
        LogitsSampler(top_p=1e-9),
    ],
)
def test_greedy_in_all_its_spellings(sampler: LogitsSampler) -> None:
    logits = torch.randn(64, 11, generator=seeded())
    assert torch.equal(sampler(logits), logits.argmax(-1))
    assert (sampler.filter(logits).isfinite().sum(-1) == 1).all()


def test_greedy_breaks_ties_like_argmax() -> None:
    logits = torch.zeros(5, 9)
    assert torch.equal(LogitsSampler(top_k=1)(logits), logits.argmax(-1))


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, g: add_gumbel_noise(x, generator=g),
        lambda x, g: add_exp_1_noise(x.exp(), generator=g),
        lambda x, g: sample_categorical(x.exp(), g),
        lambda x, g: sample_from_logits(x, generator=g),
        lambda x, g: sample_from_top_k(9, x, generator=g),
        lambda x, g: sample_from_top_p(0.9, x, generator=g),
        lambda x, g: LogitsSampler(top_p=0.9)(x, g),
        lambda x, g: select_random_indices((30, 20), torch.full((30,), 9), generator=g),
        lambda x, g: select_random_indices(
            (30, 20), torch.full((30,), 9), selection_score=x[0], selection_mode="sample", generator=g
        ),
        lambda x, g: select_random_indices(
            (30, 20), torch.full((30,), 9), None, x[0].exp(), 1.0, "sample", "uprobs", generator=g
        ),
    ],
)
def test_a_generator_makes_draws_repeatable_and_leaves_the_global_one_alone(
    draw: Callable[[Tensor, torch.Generator], Tensor],
) -> None:
    logits = torch.randn(2, 30, 20, generator=seeded())
    before = torch.get_rng_state()
    first = draw(logits, seeded(3))
    assert torch.equal(first, draw(logits, seeded(3)))
    assert not torch.equal(first, draw(logits, seeded(4)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: sample_from_logits(x, temperature=0),
        lambda x: sample_from_logits(x, noise_scale=0),
        lambda x: sample_from_logits(x * 1e6),
        lambda x: sample_categorical((x * 1e3).softmax(-1)),
        lambda x: sample_from_top_k(1, x),
        lambda x: sample_from_top_p(1e-9, x),
        LogitsSampler(temperature=0),
        LogitsSampler(min_p=1),
    ],
)
def test_rows_may_have_any_shape(draw: Callable[[Tensor], Tensor]) -> None:
    logits = torch.randn(4, 3, 5, generator=seeded())
    assert torch.equal(draw(logits), logits.argmax(-1))


def test_temperature_and_noise_have_their_scale() -> None:
    logits = torch.randn(6, 8, generator=seeded())
    noise = add_gumbel_noise(torch.zeros(6, 8), generator=seeded(1))
    scaled = add_gumbel_noise(logits, temperature=0.5, noise_scale=3, generator=seeded(1))
    assert torch.allclose(scaled, logits.double() / 0.5 + 3 * noise)
    assert torch.equal(LogitsSampler(temperature=2).filter(logits), logits / 2)
    # The temperature comes before the filter, and both before the draw.
    draws = frequencies(lambda x: sample_from_top_k(2, x, temperature=0.5, generator=seeded()), PROBS.log())
    assert abs(draws[0] - 0.8) < TOLERANCE


def test_a_nucleus_ends_where_p_is_reached() -> None:
    assert keep_top_p(torch.zeros(2), 0.5).isfinite().tolist() == [True, False]
    # Equal tokens are kept in their order, and many small probabilities add up in float64.
    kept = keep_top_p(torch.zeros(60_000), 0.25).isfinite()
    assert kept[:15_000].all()
    assert not kept[15_001:].any()


def test_noise_is_float64_and_deep_in_the_tail() -> None:
    assert add_gumbel_noise(torch.zeros(4, 3)).dtype == torch.float64
    noise = add_gumbel_noise(torch.zeros(1_000_000, 1), generator=seeded())
    assert noise.isfinite().all()
    assert abs(float(noise.mean()) - 0.5772) < 0.01


def test_large_logits_are_drawn_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.sampling._MAX_NOISE_ELEMENTS", 7)
    logits = torch.full((2, 3, 4), -torch.inf)
    logits[..., 2] = 0
    assert torch.equal(sample_from_logits(logits), torch.full((2, 3), 2))
    assert sample_from_logits(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_from_top_p(0.0, PROBS), r"top_p must be in \(0, 1\], got 0.0"),
        (lambda: sample_from_top_p(1.5, PROBS), r"top_p must be in \(0, 1\], got 1.5"),
        (lambda: keep_top_p(PROBS, -1), "top_p must be in"),
        (lambda: sample_from_top_k(0, PROBS), "top_k must be at least 1, got 0"),
        (lambda: keep_top_k(PROBS, 0), "top_k must be at least 1"),
        (lambda: LogitsSampler(temperature=-1), "temperature must be at least 0, got -1"),
        (lambda: LogitsSampler(min_p=2), r"min_p must be in \[0, 1\], got 2"),
        (lambda: keep_min_p(PROBS, 2), "min_p must be in"),
        (lambda: keep_top_p(PROBS, 0), "top_p must be in"),
        (lambda: keep_top_p(PROBS, 1.5), "top_p must be in"),
        (lambda: LogitsSampler(top_p=0), "top_p must be in"),
        (lambda: LogitsSampler(top_p=1.5), "top_p must be in"),
        (lambda: add_gumbel_noise(PROBS, 0), "0 means greedy"),
        (lambda: add_exp_1_noise(PROBS, 0), "0 means greedy"),
        (lambda: confidence_scores(PROBS, "best"), "'best'. Choices: top_prob, prob_diff, entropy"),  # type: ignore[arg-type]
        (lambda: select_random_indices((1, 2), torch.ones(1), selection_mode="x"), "Unknown selection_mode 'x'"),  # type: ignore[arg-type]
        (lambda: select_random_indices((1, 2), torch.ones(1), score_mode="x"), "Unknown score_mode 'x'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_options_say_so(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_ends_of_a_range_are_allowed() -> None:
    sampler = LogitsSampler(temperature=1, top_k=5, top_p=1, min_p=0)
    assert torch.equal(sampler.filter(PROBS), PROBS)
    assert keep_min_p(torch.tensor([1.0, 3.0, 3.0]), 1).isfinite().tolist() == [False, True, True]
    for kind in ("top_prob", "prob_diff"):
        bounds = [confidence_bound(value, kind) for value in (0.0, 1.0, 1.5)]  # type: ignore[arg-type]
        assert bounds == [-torch.inf, torch.inf, torch.inf]


def plain_confidence(logits: Tensor, kind: Confidence) -> Tensor:
    """The definitions in float64: best probability, margin of the best two, minus the entropy."""
    probs = logits.double().softmax(dim=-1)
    if kind == "entropy":
        return -torch.special.entr(probs).sum(dim=-1)
    best, second = probs.topk(2).values.unbind(dim=-1)
    return best if kind == "top_prob" else best - second


def test_confidences_of_a_known_distribution() -> None:
    logits = PROBS.float().log().expand(3, 2, -1)
    entropy = -float((PROBS * PROBS.log()).sum())
    for kind, value in zip(CONFIDENCES, (0.5, 0.25, entropy), strict=True):
        scores = confidence_scores(logits, kind)
        assert torch.allclose(scores, torch.tensor(confidence_bound(value, kind)))
        assert scores.shape == (3, 2)


@pytest.mark.parametrize("kind", CONFIDENCES)
@pytest.mark.parametrize("vocabulary", [2, 5, 50_000])
def test_what_is_very_sure_stays_apart(kind: Confidence, vocabulary: int) -> None:
    """In float32 a probability is 1 from a gap of 17 between logits on, and exp(−104) is 0."""
    gaps = torch.tensor([20.001, 300.0, 80.0, 20.0, 40.0, 120.0, 5.0])
    logits = torch.zeros(len(gaps), vocabulary)
    logits[:, 1] = gaps
    scores = confidence_scores(logits, kind)
    assert scores.argsort().tolist() == gaps.argsort().tolist()
    assert not scores.isnan().any()


@pytest.mark.parametrize("kind", CONFIDENCES)
@pytest.mark.parametrize("scale", [0.3, 3.0, 10.0])
def test_a_bound_is_that_of_the_plain_definition(kind: Confidence, scale: float) -> None:
    logits = scale * torch.randn(400, 12, generator=seeded())
    logits[::3, 5:9] = -torch.inf
    plain, scores = plain_confidence(logits, kind), confidence_scores(logits, kind)
    assert scores.isfinite().all()
    for threshold in (0.0, 0.01, 0.2, 0.5, 0.9, 0.999, 2.0):
        wanted = plain >= (-threshold if kind == "entropy" else threshold)
        assert torch.equal(scores >= confidence_bound(threshold, kind), wanted)


def test_one_possible_token_is_surest_and_two_equal_ones_have_no_margin() -> None:
    logits = torch.tensor([[1.0, -torch.inf, -torch.inf], [2.0, 2.0, -torch.inf], [60.0, 0.0, -torch.inf]])
    for kind, tie in (("top_prob", 0.0), ("prob_diff", -torch.inf), ("entropy", -math.log(math.log(2)))):
        scores = confidence_scores(logits, kind).tolist()  # type: ignore[arg-type]
        assert scores[0] == torch.inf > scores[2] > scores[1] == pytest.approx(tie)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9)),
    scored=st.booleans(),
    mode=st.sampled_from(["greedy", "sample"]),
    score_mode=st.sampled_from(["logits", "uprobs"]),
)
def test_exactly_as_many_indices_as_asked_within_the_mask(
    seed: int, shape: tuple[int, int], scored: bool, mode: str, score_mode: str
) -> None:
    generator = seeded(seed)
    mask = torch.rand(shape, generator=generator) < 0.6
    count = torch.randint(0, shape[1] + 2, (shape[0],), generator=generator)
    score = torch.rand(shape, generator=generator)
    # Forbidden tokens and zero probabilities are last choices, not no choices.
    score = score.masked_fill(score < 0.3, -torch.inf if score_mode == "logits" else 0.0)
    chosen = select_random_indices(
        shape,
        count,
        mask,
        score if scored else None,
        selection_mode=mode,  # type: ignore[arg-type]
        score_mode=score_mode,  # type: ignore[arg-type]
        generator=generator,
    )
    assert chosen.dtype == torch.bool
    assert not (chosen & ~mask).any()
    assert torch.equal(chosen.sum(-1), torch.minimum(count, mask.sum(-1)))
    if scored and mode == "greedy":
        lowest = torch.where(chosen, score, torch.inf).amin(-1)
        passed_over = torch.where(mask & ~chosen, score, -torch.inf).amax(-1)
        assert (lowest >= passed_over).all()


def test_every_position_is_equally_likely_without_a_score() -> None:
    chosen = select_random_indices((DRAWS, 4), torch.full((DRAWS,), 2), generator=seeded())
    assert (chosen.double().mean(0) - 0.5).abs().max() < TOLERANCE


@pytest.mark.parametrize(("score", "score_mode"), [(PROBS.log(), "logits"), (PROBS * 3, "uprobs")])
def test_one_sampled_position_follows_the_score(score: Tensor, score_mode: str) -> None:
    chosen = select_random_indices(
        (DRAWS, 5),
        torch.ones(DRAWS, dtype=torch.long),
        selection_score=score.expand(DRAWS, -1),
        selection_mode="sample",
        score_mode=score_mode,  # type: ignore[arg-type]
        generator=seeded(),
    )
    assert (chosen.double().mean(0) - PROBS).abs().max() < TOLERANCE


@pytest.mark.parametrize("score_mode", ["logits", "uprobs"])
def test_a_low_temperature_takes_the_largest_scores(score_mode: str) -> None:
    score = torch.tensor([1.0, 4.0, 2.0, 3.0]).expand(500, -1)
    count = torch.full((500,), 2)
    cold, hot = (
        select_random_indices((500, 4), count, None, score, temperature, "sample", score_mode, seeded())  # type: ignore[arg-type]
        for temperature in (0.01, 1e6)
    )
    assert (cold == torch.tensor([False, True, False, True])).all()
    assert (hot.double().mean(0) - 0.5).abs().max() < 0.15


def test_the_first_of_equal_scores_are_chosen() -> None:
    whole = torch.zeros(2, 5000, dtype=torch.long)
    chosen = select_random_indices((2, 5000), torch.tensor([7, 4000]), selection_score=whole)
    assert chosen[0, :7].all()
    assert chosen[1, :4000].all()
    assert chosen.sum(-1).tolist() == [7, 4000]

"""Filling masks: the right law, few network calls, nothing touched that was given, every row on its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xlm.decoding.trace import record, replay
from xlm.errors import ConfigError
from xlm.masked.unmasking import (
    ConfidenceOrder,
    Filled,
    FillOrder,
    MaskedNetwork,
    Slots,
    TokenDraw,
    ancestral,
    check_one_rule,
    fill_by_confidence,
    fill_by_order,
    fill_mask_probs,
    fill_with_remasking,
    first_hitting,
    uniform_order,
)
from xlm.noise import CosineSchedule, LogLinearSchedule, RescaledSchedule
from xlm.sampling import CONFIDENCES, LogitsSampler, confidence_bound

MASK, SAMPLES = 3, 20_000
Fill = Callable[..., Filled]


def by_order(make: Callable[[Tensor, Tensor], Any]) -> Fill:
    def fill(network: MaskedNetwork, draw: TokenDraw, ids: Tensor, seeds: Tensor) -> Filled:
        slots = Slots.of(ids == MASK)
        mask_probs = fill_mask_probs(slots.masked, slots.counters, seeds)
        return fill_by_order(network, draw, ids, slots, make(mask_probs, slots.masked), seeds)

    return fill


def by_confidence(**options: Any) -> Fill:
    def fill(network: MaskedNetwork, draw: TokenDraw, ids: Tensor, seeds: Tensor) -> Filled:
        return fill_by_confidence(network, draw, ids, Slots.of(ids == MASK), ConfidenceOrder(**options), seeds)

    return fill


def remasking(eta: float, num_steps: int = 60) -> Fill:
    def fill(network: MaskedNetwork, draw: TokenDraw, ids: Tensor, seeds: Tensor) -> Filled:
        grid = RescaledSchedule(LogLinearSchedule()).grid(num_steps, CPU)
        return fill_with_remasking(network, draw, ids, Slots.of(ids == MASK), grid, eta, MASK, seeds)

    return fill


CPU = torch.device("cpu")
# So fine that two of four positions hardly ever fall into one step, where they would be drawn independently.
FINE = RescaledSchedule(LogLinearSchedule()).grid(4_000, CPU)
FINE_COSINE = RescaledSchedule(CosineSchedule()).grid(4_000, CPU)
EXACT = {
    "ancestral": by_order(lambda r, m: ancestral(r, m, FINE)),
    "ancestral, cosine": by_order(lambda r, m: ancestral(r, m, FINE_COSINE)),
    "first-hitting": by_order(first_hitting),
    "one at a time": by_order(lambda r, m: uniform_order(r, m, 4)),
    "top_prob": by_confidence(kind="top_prob", max_steps=4),
    "prob_diff": by_confidence(kind="prob_diff", max_steps=4),
    "entropy": by_confidence(kind="entropy", max_steps=4),
    "entropy bound of 0": by_confidence(kind="entropy", max_steps=4, entropy_bound=0.0),
}
COARSE = {
    "ancestral": by_order(lambda r, m: ancestral(r, m, RescaledSchedule(LogLinearSchedule()).grid(3, CPU))),
    "two calls": by_order(lambda r, m: uniform_order(r, m, 2)),
    "threshold": by_confidence(kind="top_prob", max_steps=4, threshold=0.6),
    "entropy threshold": by_confidence(kind="entropy", max_steps=4, threshold=0.5),
    "entropy bound": by_confidence(kind="top_prob", max_steps=4, entropy_bound=0.5),
    "one call": by_confidence(kind="prob_diff", max_steps=1),
    "remasking": remasking(0.1),
}
ALL = {**EXACT, **{f"coarse {name}": fill for name, fill in COARSE.items()}}


@pytest.mark.parametrize("name", EXACT)
def test_with_true_conditionals_samples_follow_the_joint(
    name: str, oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    """Whichever position comes next, drawing it from its conditional given the filled ones gives the joint."""
    filled = EXACT[name](oracle.network(), draw, all_masked(SAMPLES), torch.arange(SAMPLES))
    assert abs(oracle.chi_squared(filled.ids)) < 4.5


def test_the_chi_squared_test_would_notice(oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]) -> None:
    """All four positions in one call ignore each other: the joint is missed by far."""
    filled = COARSE["one call"](oracle.network(), draw, all_masked(SAMPLES), torch.arange(SAMPLES))
    assert oracle.chi_squared(filled.ids) > 100


def test_given_tokens_condition_the_rest(oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]) -> None:
    ids = all_masked(SAMPLES)
    ids[:, 2] = 1
    filled = EXACT["first-hitting"](oracle.network(), draw, ids, torch.arange(SAMPLES))
    wanted = oracle.joint * (oracle.sequences[:, 2] == 1)
    wanted = wanted / wanted.sum()
    code = (filled.ids * 3 ** torch.arange(3, -1, -1)).sum(-1)
    observed = torch.bincount(code, minlength=81).double()
    assert observed[wanted == 0].sum() == 0
    chi = ((observed - wanted * SAMPLES) ** 2 / (wanted * SAMPLES))[wanted > 0].sum()
    assert abs(float(chi) - 26) < 4.5 * 52**0.5


def test_a_coarse_grid_follows_the_textbook_chain(
    oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    """With three steps the joint is missed, but by exactly as much as the chain that ancestral sampling defines."""
    filled = COARSE["ancestral"](oracle.network(), draw, all_masked(SAMPLES), torch.arange(SAMPLES))
    grid = torch.linspace(1, 0, 4, dtype=torch.float64)
    assert abs(oracle.chi_squared(filled.ids, oracle.chain(grid))) < 4.5
    assert oracle.chi_squared(filled.ids) > 10


def test_ancestral_sampling_with_and_without_empty_steps_draws_the_same(
    oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    grid = RescaledSchedule(LogLinearSchedule()).grid(50, CPU)
    seeds = torch.arange(200)
    cached = by_order(lambda r, m: ancestral(r, m, grid))(oracle.network(), draw, all_masked(200), seeds)
    textbook = by_order(lambda r, m: ancestral(r, m, grid, True))(oracle.network(), draw, all_masked(200), seeds)
    assert torch.equal(cached.ids, textbook.ids)
    assert (cached.network_calls <= 4).all()
    assert float(textbook.network_calls.double().mean()) > 30


@pytest.mark.parametrize("name", ALL)
def test_given_tokens_stay_and_no_mask_remains(name: str, oracle: Any, draw: TokenDraw) -> None:
    torch.manual_seed(1)
    ids = torch.randint(0, 4, (300, 4))
    filled = ALL[name](oracle.network(), draw, ids, torch.arange(300))
    given = ids != MASK
    assert torch.equal(filled.ids[given], ids[given])
    assert (filled.ids != MASK).all()
    assert torch.equal(filled.order == -1, given)
    assert torch.equal(filled.order.amax(1) + 1, filled.network_calls)


@pytest.mark.parametrize("eos", [None, 2], ids=["no-end", "ends"])
@pytest.mark.parametrize("name", ALL)
def test_a_batch_equals_its_rows(name: str, eos: int | None, oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rows leave it at their ends, and whether its noise is drawn at once or in each call."""
    torch.manual_seed(2)
    draw = TokenDraw(LogitsSampler(), [MASK], eos)
    ids, seeds = torch.randint(0, 4, (30, 4)), torch.arange(30) * 13
    if eos is not None:  # before given tokens a text can't end
        ids[:, 1:] = MASK
    together = ALL[name](oracle.network(), draw, ids, seeds)
    monkeypatch.setattr("xlm.masked.unmasking._DRAWN_AT_ONCE", 0)
    alone = [ALL[name](oracle.network(), draw, ids[r : r + 1], seeds[r : r + 1]) for r in range(30)]
    for field, whole in enumerate(together):
        assert torch.equal(whole, torch.cat([one[field] for one in alone])), Filled._fields[field]
    if eos is not None and "remasking" not in name and "one call" not in name:
        endless = ALL[name](oracle.network(), TokenDraw(LogitsSampler(), [MASK]), ids, seeds)
        assert together.network_calls.sum() < endless.network_calls.sum()


@pytest.mark.parametrize("name", ALL)
def test_the_network_runs_only_where_something_is_masked(name: str, oracle: Any, draw: TokenDraw) -> None:
    ids = torch.tensor([[0, 1, 2, 0], [0, MASK, 2, 1], [MASK, MASK, MASK, MASK]])
    filled = ALL[name](oracle.network(), draw, ids, torch.arange(3))
    rows = torch.cat([rows for rows, _ in oracle.ran_on])
    assert torch.equal(torch.bincount(rows, minlength=3), filled.network_calls)
    assert filled.network_calls[0] == 0
    assert filled.network_calls[1] >= 1
    assert int(filled.network_calls[2]) <= 4 or "remasking" in name
    everything_given = ALL[name](oracle.network(), draw, ids[:1], torch.arange(1))
    assert torch.equal(everything_given.ids, ids[:1])


@pytest.mark.parametrize("name", ALL)
def test_a_trace_is_what_was_filled(name: str, oracle: Any, draw: TokenDraw) -> None:
    torch.manual_seed(4)
    ids, seeds = torch.randint(0, 4, (20, 4)), torch.arange(20)
    with record() as recorder:
        recorder.begin(ids, torch.ones_like(ids), 0)
        filled = ALL[name](oracle.network(), draw, ids, seeds)
    for row, trace in enumerate(recorder.traces):
        assert replay(trace.given, trace.steps) == filled.ids[row].tolist()
        assert trace.calls == filled.network_calls[row]
        for step in trace.steps:
            for change in step["changes"]:
                if change["token"] == MASK:
                    assert "remasking" in name
                else:
                    assert 0 < change["p"] <= 1
                    assert "remasking" in name or filled.order[row, change["at"]] == step["call"] - 1


@pytest.mark.parametrize(("max_steps", "sizes"), [(1, [4]), (2, [2, 2]), (3, [2, 1, 1]), (4, [1, 1, 1, 1])])
def test_by_confidence_each_call_fills_its_share_of_what_is_left(
    max_steps: int, sizes: list[int], oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    fill = by_confidence(kind="top_prob", max_steps=max_steps)
    order = fill(oracle.network(), draw, all_masked(1), torch.arange(1)).order
    assert torch.bincount(order[0]).tolist() == sizes


def test_one_rule_says_how_many_a_call_fills() -> None:
    check_one_rule(0.5, None)
    check_one_rule(None, 0.5)
    with pytest.raises(ConfigError, match=r"^predictor\.threshold and predictor\.entropy_bound are two rules.* one\.$"):
        check_one_rule(0.5, 0.0)


def test_the_most_masks_of_a_row() -> None:
    masked = torch.tensor([[True, False, True], [False, False, True]])
    assert [Slots.of(rows).most() for rows in (masked, masked & False, masked[:0])] == [2, 1, 1]


def test_the_output_layer_runs_on_chosen_positions_only(
    oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    EXACT["first-hitting"](oracle.network(), draw, all_masked(10), torch.arange(10))
    assert oracle.head_rows == [10, 10, 10, 10]


def test_the_network_is_told_how_much_is_masked(
    oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    EXACT["first-hitting"](oracle.network(), draw, all_masked(2000), torch.arange(2000))
    means = [float(rate.mean()) for _, rate in oracle.ran_on]
    # Order statistics of four uniform numbers: 4/5, 3/5, 2/5, 1/5.
    assert means == pytest.approx([0.8, 0.6, 0.4, 0.2], abs=0.02)
    oracle.ran_on.clear()
    EXACT["top_prob"](oracle.network(), draw, all_masked(2), torch.arange(2))
    assert [rate.tolist() for _, rate in oracle.ran_on] == [[1, 1], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]]


def test_top_k_one_is_greedy(oracle: Any, all_masked: Callable[[int], Tensor]) -> None:
    seeds = torch.arange(20)
    for name in ALL:
        greedy, top_1 = (
            ALL[name](oracle.network(), TokenDraw(LogitsSampler(**options), [MASK]), all_masked(20), seeds)
            for options in ({"temperature": 0.0}, {"top_k": 1})
        )
        assert torch.equal(greedy.ids, top_1.ids)
    # By confidence nothing is random then, and the first token is the surest one's best.
    greedy = ALL["top_prob"](oracle.network(), TokenDraw(LogitsSampler(temperature=0.0), [MASK]), all_masked(20), seeds)
    assert len(greedy.ids.unique(dim=0)) == 1
    marginals = oracle.table[-1][:, :3]
    first = (greedy.order[0] == 0).nonzero().item()
    assert marginals.amax(1).argmax() == first
    assert greedy.ids[0, first] == marginals[first].argmax()


def test_suppressed_tokens_never_appear(oracle: Any, all_masked: Callable[[int], Tensor]) -> None:
    for name in ALL:
        draw = TokenDraw(LogitsSampler(temperature=2.0), [MASK, 1])
        filled = ALL[name](oracle.network(), draw, all_masked(200), torch.arange(200))
        assert set(filled.ids.unique().tolist()) == {0, 2}


def test_eos_appears_only_where_the_text_may_end(oracle: Any) -> None:
    draw = TokenDraw(LogitsSampler(), [MASK], eos_token_id=2)
    ids = torch.tensor([[MASK, MASK, 1, MASK]]).expand(400, 4)
    for name in ALL:
        filled = ALL[name](oracle.network(), draw, ids, torch.arange(400))
        assert (filled.ids[:, :2] != 2).all()
        assert (filled.ids[:, 3] == 2).any()


@pytest.mark.parametrize(("kind", "threshold"), [("top_prob", 0.7), ("prob_diff", 0.4), ("entropy", 0.6)])
def test_a_threshold_takes_all_that_are_sure_and_at_least_one(kind: Any, threshold: float) -> None:
    plain = [[0.9, 0.1, 0.65, 0.75], [0.3, 0.2, 0.1, 0.05], [0.9, 0.9, 0.9, 0.9]]
    scores = torch.tensor([[confidence_bound(value, kind) for value in row] for row in plain])
    masked = torch.tensor([[True, True, True, True], [True, True, True, False], [False, True, False, True]])
    chosen = ConfidenceOrder(kind, max_steps=9, threshold=threshold).choose(scores, masked, 5)
    wanted = {
        "top_prob": [[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 1]],
        "prob_diff": [[1, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 1]],
        "entropy": [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]],
    }
    assert chosen.long().tolist() == wanted[kind]


@pytest.mark.parametrize("score", [torch.inf, 0.0, -torch.inf])
def test_of_equally_sure_positions_the_leftmost_masked_ones_come_first(score: float) -> None:
    masked = torch.tensor([[False, True, False, True, True, True]])
    chosen = ConfidenceOrder("prob_diff", max_steps=9).choose(torch.full((1, 6), score), masked, 2)
    assert chosen.long().tolist() == [[0, 1, 0, 1, 0, 0]]


@pytest.mark.parametrize("kind", CONFIDENCES)
def test_the_surest_come_first_where_every_probability_rounds_to_one(kind: Any) -> None:
    gaps = torch.tensor([120.0, 300.0, 20.0, 40.0])
    logits = torch.cat([gaps[:, None], torch.zeros(4, 3)], dim=1)
    network = MaskedNetwork(lambda ids, rows, mask_prob, index: logits[index % 4], lambda features: features)
    ids = torch.full((1, 4), MASK)
    fill = by_confidence(kind=kind, max_steps=4)
    filled = fill(network, TokenDraw(LogitsSampler(temperature=0.0), [MASK]), ids, torch.zeros(1, dtype=torch.long))
    assert filled.order.tolist() == [[1, 0, 3, 2]]


@pytest.mark.parametrize("bound", [0.0, 0.1, 0.5, 1.0, 5.0])
def test_an_entropy_bound_takes_the_longest_sequence_of_surest_positions_within_it(bound: float) -> None:
    generator = torch.Generator().manual_seed(3)
    scores, entropies = torch.rand(2, 40, 7, generator=generator)
    masked = torch.rand(40, 7, generator=generator) < 0.7
    chosen = ConfidenceOrder("top_prob", max_steps=9, entropy_bound=bound).choose(scores, masked, 5, entropies)
    for row in range(40):
        order = sorted(masked[row].nonzero().squeeze(1).tolist(), key=lambda i: -float(scores[row, i]))
        taken = [order[:n] for n in range(1, len(order) + 1)]
        h = entropies[row].double()
        allowed = [places for places in taken if float(h[places].sum() - h[places].max()) <= bound + 1e-6]
        assert sorted(max(allowed, key=len, default=[])) == chosen[row].nonzero().squeeze(1).tolist()


def test_padding_changes_no_draw() -> None:
    """Slots number real tokens, so that a row draws the same behind any padding."""
    masked = torch.tensor([[False, True, True, False, True]])
    plain = Slots.of(masked, torch.ones_like(masked))
    padded_mask = torch.tensor([[False, False, True, True, True, True, True]])
    padded = Slots.of(torch.cat([torch.zeros(1, 2, dtype=torch.bool), masked], 1), padded_mask)
    assert torch.equal(padded.counters[:, 2:], plain.counters)
    assert (
        padded.before_given_token[:, 2:].tolist()
        == plain.before_given_token.tolist()
        == [[False, True, True, False, False]]
    )


# When each position is filled.

masks = st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=4, max_size=4).map(torch.tensor)


def mask_probs_of(masked: Tensor, seed: int = 0) -> Tensor:
    counters = torch.arange(masked.shape[1]).expand_as(masked)
    return fill_mask_probs(masked, counters, torch.arange(len(masked)) + seed)


def check(order: FillOrder, masked: Tensor) -> None:
    """Steps of a row are 0, 1, 2 … without a gap, at masked positions only, and every call has a probability."""
    assert torch.equal(order.step_index >= 0, masked)
    for steps in order.step_index:
        present = steps[steps >= 0].unique().tolist()
        assert present == list(range(len(present)))
        assert len(present) <= order.mask_prob.shape[1]


@given(masks, st.integers(1, 12))
@settings(deadline=None)
def test_uniform_order_fills_the_ceiling_of_masked_over_steps_left(masked: Tensor, max_steps: int) -> None:
    order = uniform_order(mask_probs_of(masked), masked, max_steps)
    check(order, masked)
    for row, count in enumerate(masked.sum(1).tolist()):
        left, total = count, count
        for call in range(min(max_steps, count)):
            size = math.ceil(left / (max_steps - call))
            assert int((order.step_index[row] == call).sum()) == size
            assert float(order.mask_prob[row, call]) == pytest.approx(left / total)
            left -= size
        assert left == 0


@given(masks)
@settings(deadline=None)
def test_first_hitting_fills_one_position_per_call_at_falling_rates(masked: Tensor) -> None:
    mask_probs = mask_probs_of(masked)
    order = first_hitting(mask_probs, masked)
    check(order, masked)
    for row in range(4):
        count = int(masked[row].sum())
        assert sorted(order.step_index[row][masked[row]].tolist()) == list(range(count))
        for call in range(count):
            assert order.mask_prob[row, call] == mask_probs[row][order.step_index[row] == call]
        assert (order.mask_prob[row, :count].diff() < 0).all()


@given(masks, st.integers(1, 20))
@settings(deadline=None)
def test_ancestral_fills_in_the_step_that_passes_a_positions_probability(masked: Tensor, num_steps: int) -> None:
    mask_probs, grid = mask_probs_of(masked), torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    cached, textbook = ancestral(mask_probs, masked, grid), ancestral(mask_probs, masked, grid, run_empty_steps=True)
    check(cached, masked)
    for row, column in masked.nonzero().tolist():
        step = int(textbook.step_index[row, column])
        assert grid[step + 1] < mask_probs[row, column] <= grid[step]
        assert textbook.mask_prob[row, step] == grid[step]
        assert cached.mask_prob[row, cached.step_index[row, column]] == grid[step]
    assert cached.mask_prob.shape[1] == max(len(v[v >= 0].unique()) for v in textbook.step_index)


def test_all_orders_are_equally_likely_and_prefer_no_position() -> None:
    masked = torch.ones(24_000, 4, dtype=torch.bool)
    step_index = first_hitting(mask_probs_of(masked), masked).step_index
    code = (step_index * 4 ** torch.arange(4)).sum(1)
    wanted = [sum(v * 4**i for i, v in enumerate(p)) for p in itertools.permutations(range(4))]
    observed = torch.tensor([int((code == c).sum()) for c in wanted]).double()
    assert observed.sum() == len(step_index)
    assert float(((observed - 1000) ** 2 / 1000).sum()) < 23 + 4.5 * 46**0.5


def test_counts_per_step_are_binomial() -> None:
    """A mask leaves in the step from t to s with probability (α_s − α_t)/(1 − α_t), on its own."""
    masked = torch.ones(20_000, 6, dtype=torch.bool)
    grid = RescaledSchedule(LogLinearSchedule()).grid(4, CPU)
    step_index = ancestral(mask_probs_of(masked), masked, grid, run_empty_steps=True).step_index
    counts = torch.bincount((step_index == 0).sum(1), minlength=7).double()
    p = 0.25
    wanted = torch.tensor([math.comb(6, k) * p**k * (1 - p) ** (6 - k) for k in range(7)]).double() * len(step_index)
    assert float(((counts - wanted) ** 2 / wanted).sum()) < 6 + 4.5 * 12**0.5


def test_a_row_draws_the_same_order_alone() -> None:
    masked = torch.rand(5, 8) < 0.6
    counters, seeds = torch.arange(8).expand(5, 8), torch.arange(5) * 7
    together = fill_mask_probs(masked, counters, seeds)
    for row in range(5):
        here = slice(row, row + 1)
        assert torch.equal(fill_mask_probs(masked[here], counters[here], seeds[here]), together[here])


def test_empty_batches_and_rows_without_masks() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    grid = torch.linspace(1, 0, 5, dtype=torch.float64)
    for masked in (nothing, nothing[:0]):
        mask_probs = mask_probs_of(masked)
        for order in (
            first_hitting(mask_probs, masked),
            uniform_order(mask_probs, masked, 3),
            ancestral(mask_probs, masked, grid),
        ):
            assert order.mask_prob.shape[1] == 0
            assert (order.step_index == -1).all()


# Tokens taken back.


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_remasking_follows_the_textbook_chain(
    eta: float, oracle: Any, draw: TokenDraw, all_masked: Callable[[int], Tensor]
) -> None:
    n, num_steps = 20_000, 12
    filled = remasking(eta, num_steps)(oracle.network(), draw, all_masked(n), torch.arange(n))
    grid = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    assert abs(oracle.chi_squared(filled.ids, oracle.chain(grid, eta))) < 4.5


def test_the_chain_goes_to_the_joint_as_steps_get_finer(oracle: Any) -> None:
    distances = []
    for num_steps in (10, 100, 1000):
        grid = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        distances.append(float((oracle.chain(grid, 0.3 / num_steps) - oracle.joint).abs().sum()))
    assert distances[0] > 5 * distances[1] > 25 * distances[2]


def test_tokens_are_taken_back(oracle: Any, draw: TokenDraw) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 4, (300, 4))
    filled = remasking(0.2)(oracle.network(), draw, ids, torch.arange(300))
    # More calls than masks: some position was filled twice.
    assert (filled.network_calls > (ids == MASK).sum(1)).any()

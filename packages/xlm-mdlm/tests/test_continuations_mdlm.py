"""The bound on a continuation given its context, against enumeration on three words and four positions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mdlm.datamodule_mdlm import MDLMCollator
from mdlm.loss_mdlm import MDLMLoss
from xlm.evaluation.continuations import Scored, Span, score_spans
from xlm.noise import LogLinearSchedule

NUM_ROWS, NUM_DRAWS = 1000, 4
ROWS = [5, 40, 77]


def log_p(model: Any, z: Tensor, words: Tensor) -> Tensor:
    """(B, 4) log p of the true word at each position, given z, in which 3 is a mask."""
    found: Tensor = model.conditionals(z).gather(-1, words[:, :, None]).squeeze(-1)
    return found


def conditional_nelbo(model: Any, words: Tensor, start: int) -> Tensor:
    """By enumeration over sets of masked positions of the continuation: Σ B(|S|, n − |S| + 1) Σ_{i ∈ S} −log p."""
    places = range(start, words.shape[1])
    n, total = len(places), torch.zeros(len(words), dtype=torch.float64)
    for size in range(1, n + 1):
        weight = math.factorial(size - 1) * math.factorial(n - size) / math.factorial(n)
        for masked in map(list, itertools.combinations(places, size)):
            z = words.clone()
            z[:, masked] = 3
            total -= weight * log_p(model, z, words)[:, masked].sum(1)
    return total


def conditional_nll(model: Any, words: Tensor, start: int) -> Tensor:
    """−log of the probability that unmasking the continuation in a uniformly random order gives it."""
    log_ps = []
    for order in itertools.permutations(range(start, words.shape[1])):
        z, total = words.clone(), torch.zeros(len(words), dtype=torch.float64)
        z[:, start:] = 3
        for place in order:
            total += log_p(model, z, words)[:, place]
            z[:, place] = words[:, place]
        log_ps.append(total)
    return math.log(len(log_ps)) - torch.stack(log_ps).logsumexp(0)


def scored(model: Any, words: Tensor, start: int) -> Scored:
    """As lm-evaluation-harness gets it: four words, no EOS, one seed a row."""
    loss = MDLMLoss(model, model.tokenizer, LogLinearSchedule())
    rows = (words + 7).tolist()
    batch = MDLMCollator(model.tokenizer, block_size=5, noise_schedule=LogLinearSchedule())(
        [{"input_ids": row, "noise_seed": seed} for seed, row in enumerate(rows)]
    )
    spans = [Span(start, 4)] * len(rows)
    return score_spans(loss, batch, rows, spans, model.tokenizer, num_samples=NUM_DRAWS)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_draws_lie_around_a_bound_that_is_exact_for_an_order_agnostic_model(start: int, table_model: Any) -> None:
    words = table_model.sequences[ROWS]
    bound, true = conditional_nelbo(table_model, words, start), conditional_nll(table_model, words, start)
    assert (bound >= true - 1e-9).all()
    if start == 3:
        assert torch.allclose(bound, true), "one token has one order"
    terms = scored(table_model, words.repeat(NUM_ROWS, 1), start).terms
    draws = terms.nll.view(NUM_ROWS, len(ROWS), NUM_DRAWS).transpose(0, 1).reshape(len(ROWS), -1)
    error = draws.std(dim=1) / draws.shape[1] ** 0.5
    assert ((draws.mean(dim=1) - bound).abs() < 4 * error + 1e-9).all()
    assert not terms.exact
    assert (terms.num_tokens == 4 - start).all()


def test_bounds_of_an_order_agnostic_model_are_its_conditionals(oracle: Any) -> None:
    """−log p(x₃ x₄ | x₁ x₂) from the joint table itself."""
    words = oracle.sequences[ROWS]
    agrees = (oracle.sequences[None, :, :2] == words[:, None, :2]).all(-1)
    truth = -(oracle.joint[ROWS] / (agrees * oracle.joint).sum(1)).log()
    assert torch.allclose(conditional_nelbo(oracle, words, 2), truth)


@pytest.mark.parametrize("start", [2, 3])
def test_greedy_is_the_best_word_at_every_mask(start: int, table_model: Any) -> None:
    words = table_model.sequences
    z = words.clone()
    z[:, start:] = 3
    best = table_model.conditionals(z).argmax(-1)
    expected = (best == words)[:, start:].all(1)
    assert 0 < expected.sum() < len(words)
    loss = MDLMLoss(table_model, table_model.tokenizer, LogLinearSchedule())
    batch = MDLMCollator(table_model.tokenizer, block_size=5, noise_schedule=LogLinearSchedule())(
        [{"input_ids": row, "noise_seed": 0} for row in (words + 7).tolist()]
    )
    found = score_spans(loss, batch, (words + 7).tolist(), [Span(start, 4)] * len(words), table_model.tokenizer)
    assert torch.equal(found.is_greedy, expected)

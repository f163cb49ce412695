"""With an oracle in the network's place, samples follow the distribution that the oracle knows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ilm.datamodule_ilm import ILMSeq2SeqPredCollator
from ilm.predictor_ilm import ILMPredictor
from ilm.sampling_ilm import choose_slots, draw
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.sampling import LogitsSampler

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=3)
V = len(TOKENIZER)
Text = tuple[int, ...]

# Correlated, with repetitions, of several lengths.
LAW: dict[Text, float] = {
    (7, 8, 9): 0.2,
    (7, 7, 8): 0.15,
    (9, 8, 7): 0.1,
    (8, 8, 8): 0.1,
    (9, 9): 0.15,
    (7, 8): 0.1,
    (8,): 0.12,
    (): 0.08,
}


class Oracle:
    """The exact law of insertions when texts come from LAW and tokens from a text in uniformly random order.

    Given what is there (z, t tokens), a text x continues it in proportion to LAW[x] · 1/C(N, t) for each way to find
    z in x; then each missing token comes next with 1/(N − t), and x = z ends it. `hidden` are the logits themselves.
    """

    def __init__(self, law: dict[Text, float]) -> None:
        self.next: dict[Text, dict[tuple[int, int], float]] = defaultdict(lambda: defaultdict(float))
        self.mass: dict[Text, float] = defaultdict(float)
        self.done = law
        for x, p in law.items():
            for t in range(len(x) + 1):
                for kept in combinations(range(len(x)), t):
                    z = tuple(x[i] for i in kept)
                    weight = p / math.comb(len(x), t)
                    self.mass[z] += weight
                    for i in set(range(len(x))) - set(kept):
                        self.next[z][sum(k < i for k in kept), x[i]] += weight / (len(x) - t)
        self.final_layer = nn.Module()
        self.final_layer.norm_final = nn.Identity()
        self.final_layer.linear = nn.Linear(V, V, bias=False)
        with torch.no_grad():
            self.final_layer.linear.weight.copy_(torch.eye(V))
        self.calls = 0

    def hidden(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """(R, W, V + 1): logits of insertions, and in the last place of the column of CLS log-odds of the end."""
        self.calls += 1
        rows, inverse = ids.masked_fill(~mask, 0).unique(dim=0, return_inverse=True)
        logits = torch.full((*rows.shape, V), -1e4, dtype=torch.float64)
        self.odds = torch.zeros(len(rows), 2, dtype=torch.float64)
        for r, row in enumerate(rows.tolist()):
            start = row.index(TOKENIZER.bos_token_id)
            z = tuple(t for t in row[start + 1 :] if t)
            for (gap, token), p in self.next[z].items():
                logits[r, start + gap, token] = math.log(p)
            end = self.done.get(z, 0.0) / self.mass[z]
            self.odds[r] = torch.tensor([end, 1 - end], dtype=torch.float64).clamp(min=1e-300).log()
        self.odds = self.odds[inverse]
        self.final_layer.double()
        return logits[inverse]

    def length_logits(self, hidden: Tensor, cls_position: Tensor) -> Tensor:
        return self.odds


def assert_follows(counts: Counter[Any], law: dict[Any, float], n: int) -> None:
    assert set(counts) <= set(law)
    chi2 = sum((counts[x] - n * p) ** 2 / (n * p) for x, p in law.items())
    freedom = len(law) - 1
    assert chi2 < freedom + 4.5 * (2 * freedom) ** 0.5, f"chi-squared {chi2:.1f} of {freedom}"


def sample(oracle: Oracle, n: int, **options: Any) -> list[Text]:
    predictor = ILMPredictor(TOKENIZER, model=oracle, max_length=6, stopping_threshold=None, **options)
    batch = ILMSeq2SeqPredCollator(TOKENIZER)([{"noise_seed": i} for i in range(n)])
    preds = predictor.predict(batch)
    return [tuple(row[m].tolist()) for row, m in zip(preds["ids"][:, 2:], preds["attention_mask"][:, 2:], strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "slot_first"},
        {"sampling": "joint"},
        # So large a k forbids nothing, but takes the path of all pairs at once.
        {"sampling": "joint", "top_k": 10**6},
    ],
    ids=["slot_first", "joint", "joint_pairs"],
)
def test_20000_samples_follow_the_law(options: dict[str, Any]) -> None:
    n = 20_000
    found = Counter(sample(Oracle(LAW), n, **options))
    assert_follows(found, LAW, n)


def test_a_threshold_gives_the_law_where_the_end_is_certain() -> None:
    """All texts as long as each other: CLS then knows, and nothing is drawn about the end."""
    law = {(7, 8, 9): 0.4, (7, 7, 8): 0.3, (9, 8, 7): 0.2, (8, 8, 8): 0.1}
    n = 20_000
    oracle = Oracle(law)
    predictor = ILMPredictor(TOKENIZER, model=oracle, max_length=6)
    preds = predictor.predict(ILMSeq2SeqPredCollator(TOKENIZER)([{"noise_seed": i} for i in range(n)]))
    assert preds["steps_taken"].tolist() == [3] * n
    assert oracle.calls == 4
    assert_follows(Counter(map(tuple, preds["ids"][:, 2:].tolist())), law, n)


def test_greedy_gives_a_likely_text() -> None:
    (best,) = set(sample(Oracle({(7, 8, 9): 0.9, (9, 9, 9): 0.1}), 50, top_k=1, slot_top_k=1))
    assert best == (7, 8, 9)


def test_published_filters_give_the_one_text_of_a_law_in_several_orders() -> None:
    oracle = Oracle({(7, 8, 8): 1.0})
    predictor = ILMPredictor(TOKENIZER, model=oracle, max_length=6, top_k=1, slot_top_k=2)
    preds = predictor.predict(ILMSeq2SeqPredCollator(TOKENIZER)([{"noise_seed": i} for i in range(200)]))
    assert preds["ids"][:, 2:].tolist() == [[7, 8, 8]] * 200
    assert len({tuple(order) for order in preds["insertion_order"].tolist()}) > 1


def test_draw_never_takes_what_has_no_probability() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(4, -1)
    u = torch.tensor([0.0, 0.4999, 0.5001, 1.0], dtype=torch.float64)
    assert draw(logits, u).tolist() == [1, 1, 3, 3]


def test_draw_follows_the_softmax() -> None:
    logits = torch.tensor([0.3, -2.0, 1.5, 0.0])
    n = 20_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    share = torch.bincount(draw(logits.expand(n, -1), u), minlength=4) / n
    torch.testing.assert_close(share, logits.softmax(-1), rtol=0, atol=1e-4)


def test_chosen_slots_do_not_touch_and_the_others_are_probable() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(200, 9)))
    logits[:, 4] = -torch.inf
    u = torch.from_numpy(rng.random((200, 4)))
    most = torch.arange(200) % 4 + 1
    slots = choose_slots(LogitsSampler(), logits, u, most, min_prob=0.1)
    share = logits.softmax(-1)
    for row, limit in zip(range(200), most.tolist(), strict=True):
        taken = [s for s in slots[row].tolist() if s >= 0]
        assert 1 <= len(taken) <= limit
        assert slots[row, : len(taken)].tolist() == taken  # none after a gap in the list
        assert 4 not in taken
        assert all(abs(a - b) > 1 for a, b in combinations(taken, 2))
        assert all(share[row, s] >= 0.1 for s in taken[1:])

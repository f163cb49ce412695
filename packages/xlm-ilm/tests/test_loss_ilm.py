"""The loss equals its dense definition, gradients too, and follows from the exact distribution of insertions."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ilm.corruption_ilm import close_up
from ilm.datamodule_ilm import ILMCollator, ILMSeq2SeqCollator, rows_of, training_batch
from ilm.loss_ilm import ILMLoss
from ilm.model_ilm import RotaryILM
from ilm.slot_logits_ilm import linear_logsumexp
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import ConfigError
from xlm.evaluation.likelihood import likelihood_terms

EXAMPLES = [
    {"prompt_ids": [7, 8, 9, 10], "input_ids": [11, 12, 12, 12, 7], "noise_seed": 2},
    {"prompt_ids": [7], "input_ids": [8, 9, 10, 11, 12, 9, 9], "noise_seed": 3},
    {"prompt_ids": [], "input_ids": [], "noise_seed": 4},
    {"prompt_ids": [9, 9], "input_ids": [15, 14], "noise_seed": 5},
]


def batch_of(sequences: Sequence[Sequence[int]], drops: np.ndarray[Any, Any], tokenizer: Any) -> Any:
    """A training batch with deletions of our choice."""
    corrupted = close_up(sequences, drops)
    rows = rows_of([[] for _ in sequences], corrupted.kept, tokenizer)
    return training_batch(rows, corrupted, torch.arange(len(sequences)), pad_token_id=0)


def dense_loss(model: RotaryILM, batch: Any, weight: float = 1.0) -> Tensor:
    """The definition, with a target for every (gap, token) of every row."""
    logits, class_logits = model(
        batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], batch["cls_position"]
    )
    target = torch.zeros_like(logits)
    for name in zip(*(batch[f"target_{n}"].unbind(1) for n in ("slots", "tokens", "counts")), strict=True):
        target[torch.arange(len(logits)), name[0], name[1]] += name[2]
    n = target.sum(dim=(1, 2))
    log_p = logits.masked_fill(batch["constraint"][..., None], -1e9).flatten(1).log_softmax(-1).view_as(logits)
    ce = -(target * log_p).sum(dim=(1, 2)) / n.clamp(min=1)
    stop = torch.nn.functional.cross_entropy(class_logits, (n > 0).long(), reduction="none")
    return (ce + weight * stop).mean()


def gradients(model: RotaryILM, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_elements", [2**24, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_sparse_loss_is_the_dense_one_gradients_too(
    model: RotaryILM, tokenizer: SimpleSpaceTokenizer, chunk_elements: int, dtype: torch.dtype
) -> None:
    model.to(dtype)
    for collate in (ILMSeq2SeqCollator(tokenizer), ILMCollator(tokenizer)):
        batch = collate(EXAMPLES)  # type: ignore[arg-type]
        assert (batch["n_drops"] == 0).any()
        assert batch["target_counts"].max() > 1
        wanted = dense_loss(model, batch, weight=0.7)
        wanted_grads = gradients(model, wanted)
        sparse = ILMLoss(model, tokenizer, stopping_class_weight=0.7, chunk_elements=chunk_elements)(batch)["loss"]
        torch.testing.assert_close(sparse, wanted, rtol=1e-5, atol=1e-5)
        grads = gradients(model, sparse)
        assert grads.keys() == wanted_grads.keys() == dict(model.named_parameters()).keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-5, atol=1e-5, msg=name)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))])
        return out


def test_no_tensor_of_gaps_times_vocabulary_is_ever_made() -> None:
    tokenizer = SimpleSpaceTokenizer.for_numbers(vocab_size=3000)
    model = RotaryILM(len(tokenizer), d_model=8, num_layers=1, nhead=2, dropout=0.0)
    rows = [{"input_ids": list(range(7 + i, 47 + i)), "noise_seed": i} for i in range(8)]
    batch = ILMCollator(tokenizer)(rows)  # type: ignore[arg-type]
    all_logits = len(batch["slot_index"]) * len(tokenizer)
    assert sum(v.numel() for v in batch.values()) < all_logits / 100  # type: ignore[attr-defined]
    loss = ILMLoss(model, tokenizer, chunk_elements=2**15)
    with Largest() as largest:
        loss(batch)["loss"].backward()
    assert largest.numel < all_logits / 10
    whole = ILMLoss(model, tokenizer)
    with Largest() as largest:
        whole(batch)["loss"].backward()
    assert largest.numel >= all_logits  # the test would see it


def test_nothing_missing_has_no_cross_entropy_of_insertions(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = batch_of([[7, 8], []], np.zeros((2, 2), dtype=bool), tokenizer)
    result = loss(batch)
    assert result["token_ce"].tolist() == [0, 0]
    torch.testing.assert_close(result["loss"], result["length_loss"].mean())
    loss.stopping_class_weight = 0.0
    assert loss(batch)["loss"] == 0


def test_a_row_without_open_gaps_has_no_nan(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = batch_of([[7, 8], [9]], np.zeros((2, 2), dtype=bool), tokenizer)
    batch["constraint"][0] = True
    del batch["slot_index"]
    result = loss(batch)
    result["loss"].backward()
    assert result["loss"].isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.model.parameters())


def test_the_mean_over_deletions_is_the_cross_entropy_to_the_exact_insertion_distribution(
    loss: ILMLoss, model: RotaryILM, tokenizer: SimpleSpaceTokenizer
) -> None:
    """Over all deletions of all sequences of length 3, by hand: E_z[ −Σ q(gap, token | z) log p(gap, token | z) ]."""
    V = len(tokenizer)
    texts = [list(x) for x in product((7, 8), repeat=3)]
    for x in texts:
        total, exact = 0.0, 0.0
        for d in range(4):
            for gone in combinations(range(3), d):
                drops = np.array([[i in gone for i in range(3)]])
                weight = 1 / 4 / math.comb(3, d)
                batch = batch_of([x], drops, tokenizer)
                total += weight * float(loss(batch)["token_ce"])
                if not d:
                    continue
                kept = [i for i in range(3) if i not in gone]
                q = torch.zeros(len(kept) + 1, V, dtype=torch.float64)
                for i in gone:
                    q[sum(k < i for k in kept), x[i]] += 1 / d
                row = torch.tensor([[tokenizer.cls_token_id, tokenizer.bos_token_id, *(x[k] for k in kept)]])
                types = torch.tensor([[0] + [2] * (len(kept) + 1)])
                log_p = model(row, None, types)[0][0, 1:].flatten().log_softmax(0).detach()
                exact -= weight * float((q.flatten() * log_p).sum())
        assert total == pytest.approx(exact, rel=1e-9)


@torch.no_grad()
def path_log_probs(loss: ILMLoss, x: Sequence[int], tokenizer: Any) -> list[float]:
    """log p of every order in which a sampler that follows the model could have inserted the tokens of x."""
    N, V = len(x), len(tokenizer)
    step: dict[frozenset[int], tuple[Tensor, Tensor]] = {}
    for size in range(N + 1):
        for kept in combinations(range(N), size):
            row = torch.tensor([[tokenizer.cls_token_id, tokenizer.bos_token_id, *(x[k] for k in kept)]])
            logits, classes = loss.model(row, None, torch.tensor([[0] + [2] * (size + 1)]))
            step[frozenset(kept)] = logits[0, 1:].flatten().log_softmax(0), classes[0].log_softmax(0)
    found = []
    for order in permutations(range(N)):
        log_p, there = 0.0, frozenset[int]()
        for i in order:
            insertions, classes = step[there]
            gap = sum(k < i for k in there)
            log_p += float(insertions[gap * V + x[i]] + classes[1:].logsumexp(0))
            there |= {i}
        found.append(log_p + float(step[there][1][0]))
    return found


@pytest.mark.parametrize("classes", [2, 5])
def test_the_bound_is_a_bound_and_its_mean_is_the_mean_over_orders(
    loss: ILMLoss, tokenizer: SimpleSpaceTokenizer, classes: int
) -> None:
    if classes > 2:
        torch.manual_seed(1)
        head = RotaryILM(len(tokenizer), 16, 1, 2, num_classes=classes).double().length_head.eval()
        loss.model.length_head = head
        loss.length_loss = "ce"
    for x in ([7, 8, 7], [7, 7, 7], [9, 12, 15], [10]):
        N = len(x)
        paths = torch.tensor(path_log_probs(loss, x, tokenizer), dtype=torch.float64)
        truth = -float(paths.logsumexp(0))
        over_orders = -float(paths.mean()) - math.lgamma(N + 1)
        drops = np.array(list(product([False, True], repeat=N)))
        batch = batch_of([x] * len(drops), drops, tokenizer)
        weight = torch.tensor([1 / (N + 1) / math.comb(N, d) for d in drops.sum(axis=1)], dtype=torch.float64)
        result = loss(batch)
        bound = float((weight * result["nll_bound"]).sum())
        assert bound == pytest.approx(over_orders, rel=1e-9)
        assert bound >= truth - 1e-9
        if N > 1:
            assert bound > truth + 1e-4  # and this network's orders do matter


def test_draws_of_the_bound_are_unbiased_and_their_likelihood_is_reported(
    loss: ILMLoss, tokenizer: SimpleSpaceTokenizer
) -> None:
    examples = [{"input_ids": x, "noise_seed": i} for i, x in enumerate([[7, 8, 7], [10], [], [12, 15, 9]])]
    batch = ILMCollator(tokenizer)(examples)  # type: ignore[arg-type]
    exact = torch.tensor(
        [
            -sum(paths) / len(paths) - math.lgamma(len(x["input_ids"]) + 1)  # type: ignore[arg-type]
            for x in examples
            for paths in [path_log_probs(loss, x["input_ids"], tokenizer)]  # type: ignore[arg-type]
        ],
        dtype=torch.float64,
    )
    draws = loss.nll_bound(batch, num_samples=200, num_points=2)
    assert draws.shape == (4, 200)
    error = draws.std(dim=1) / 200**0.5
    assert ((draws.mean(dim=1) - exact).abs() <= 3 * error + 1e-9).all()
    spread = loss.nll_bound(batch, num_samples=100, num_points=4)
    assert spread[0].std() < draws[0].std()
    terms = likelihood_terms(loss, batch, num_samples=3)
    torch.testing.assert_close(terms.nll, draws.new_tensor(loss.nll_bound(batch, 3).tolist()))
    assert terms.num_tokens.tolist() == [4, 2, 1, 4]
    assert not terms.exact


def test_the_bound_of_answers_keeps_their_prompts(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    """With nothing to delete there is nothing to draw: the bound is what CLS says of the prompt."""
    prompts = [
        {"prompt_ids": [7, 8], "input_ids": [], "noise_seed": 0},
        {"prompt_ids": [], "input_ids": [], "noise_seed": 1},
    ]
    batch = ILMSeq2SeqCollator(tokenizer)(prompts)  # type: ignore[arg-type]
    torch.testing.assert_close(loss.nll_bound(batch, 2), loss(batch)["length_loss"][:, None].expand(-1, 2))


def test_padding_changes_nothing_and_a_batch_equals_its_rows(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    together = loss(ILMSeq2SeqCollator(tokenizer)(EXAMPLES))  # type: ignore[arg-type]
    wide = loss(
        ILMSeq2SeqCollator(tokenizer, 11, 9, pad_to="block")(EXAMPLES)  # type: ignore[arg-type]
    )
    alone = [loss(ILMSeq2SeqCollator(tokenizer)([example])) for example in EXAMPLES]  # type: ignore[list-item]
    for name in ("token_ce", "length_loss", "nll_bound"):
        torch.testing.assert_close(torch.cat([row[name] for row in alone]), together[name])  # type: ignore[literal-required]
        torch.testing.assert_close(wide[name], together[name])  # type: ignore[literal-required]
    torch.testing.assert_close(torch.stack([row["loss"] for row in alone]).mean(), together["loss"])
    assert together["num_loss_terms"] == 4


def test_a_prompts_gaps_take_no_part(
    loss: ILMLoss, tokenizer: SimpleSpaceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the token head says behind prompt tokens, CLS and pads has no gradient."""
    batch = ILMSeq2SeqCollator(tokenizer)(EXAMPLES)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    hidden = loss.model.hidden

    def remembered(*args: Tensor, **given: Any) -> Tensor:
        seen.append(hidden(*args, **given))
        seen[-1].retain_grad()
        return seen[-1]

    monkeypatch.setattr(loss.model, "hidden", remembered)
    loss.stopping_class_weight = 0.0
    loss(batch)["loss"].backward()
    touched = seen[0].grad.abs().sum(dim=-1) > 0  # type: ignore[union-attr]
    missing = batch["n_drops"] > 0
    assert torch.equal(touched[missing], ~batch["constraint"][missing])
    assert not touched[~missing].any()


def test_slot_index_is_optional(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = ILMSeq2SeqCollator(tokenizer)(EXAMPLES)  # type: ignore[arg-type]
    wanted = loss(batch)["loss"]
    del batch["slot_index"]
    assert loss(batch)["loss"] == wanted


def test_every_parameter_gets_a_gradient(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    loss(ILMSeq2SeqCollator(tokenizer)(EXAMPLES))["loss"].backward()  # type: ignore[arg-type]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.model.parameters())


def test_the_length_head_learns_how_many_are_missing(tokenizer: SimpleSpaceTokenizer) -> None:
    model = RotaryILM(len(tokenizer), 16, 1, 2, num_classes=3, dropout=0.0)
    loss = ILMLoss(model, tokenizer, length_loss="ce")
    loss.configure(None)  # type: ignore[arg-type]
    drops = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)
    batch = batch_of([[7, 8, 9]] * 4, drops, tokenizer)
    logits = model.length_logits(
        model.hidden(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]), batch["cls_position"]
    )
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 2]), reduction="none")
    torch.testing.assert_close(loss(batch)["length_loss"], wanted.detach())


def test_rows_count_by_their_steps_in_the_bound_per_token(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = ILMSeq2SeqCollator(tokenizer)(EXAMPLES)  # type: ignore[arg-type]
    per_row, by_steps = ILMLoss(model, tokenizer)(batch), ILMLoss(model, tokenizer, weighting="elbo")(batch)
    steps = torch.tensor([len(example["input_ids"]) + 1 for example in EXAMPLES])
    rows = per_row["token_ce"] + per_row["length_loss"]
    torch.testing.assert_close(by_steps["loss"], (steps * rows).sum() / steps.sum())
    assert by_steps["num_loss_terms"] == steps.sum()


def test_what_the_bound_codes_are_the_whole_answers(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    coded = loss.coded_ids(ILMSeq2SeqCollator(tokenizer)(EXAMPLES))  # type: ignore[arg-type]
    assert [[token for token in row if token != -100] for row in coded.tolist()] == [e["input_ids"] for e in EXAMPLES]
    assert all(row[: len(e["input_ids"])] == e["input_ids"] for row, e in zip(coded.tolist(), EXAMPLES, strict=True))


def test_a_head_that_does_not_fit_is_refused(loss: ILMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    loss.configure(None)  # type: ignore[arg-type]
    loss.length_loss = "ce"
    with pytest.raises(ConfigError, match=r"length_loss=ce does not fit the model's head of 2 classes\.\nmodel\.num"):
        loss.configure(None)  # type: ignore[arg-type]
    wide = RotaryILM(len(tokenizer), 16, 1, 2, num_classes=3, dropout=0.0)
    with pytest.raises(ConfigError, match="length_loss=binary_ce does not fit the model's head of 3 classes"):
        ILMLoss(wide, tokenizer).configure(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Unknown loss\.length_loss 'mse'. Choices: binary_ce, ce\."):
        ILMLoss(length_loss="mse")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Unknown loss\.weighting 'nelbo'. Choices: none, elbo\."):
        ILMLoss(weighting="nelbo")  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [7, 10**9])
def test_logsumexp_by_chunks_with_excluded_tokens_and_temperature(chunk: int) -> None:
    hidden, weight = torch.randn(9, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    logits = hidden @ weight.T / 0.7
    logits[:, [1, 5]] = -torch.inf
    found = linear_logsumexp(hidden, weight, (1, 5), 0.7, chunk_elements=chunk)
    torch.testing.assert_close(found, logits.logsumexp(-1))
    with torch.no_grad():
        torch.testing.assert_close(linear_logsumexp(hidden, weight, (1, 5), 0.7, chunk_elements=chunk), found)


@pytest.mark.parametrize("chunk_elements", [2**24, 200])
def test_bfloat16_stays_near(tokenizer: SimpleSpaceTokenizer, chunk_elements: int) -> None:
    torch.manual_seed(0)
    model = RotaryILM(len(tokenizer), 32, 2, 2, dropout=0.0)
    batch = ILMSeq2SeqCollator(tokenizer)(EXAMPLES)  # type: ignore[arg-type]
    loss = ILMLoss(model, tokenizer, chunk_elements=chunk_elements)
    exact = loss(batch)["loss"]
    exact_grads = gradients(model, exact)
    with torch.autocast("cpu", torch.bfloat16):
        near = loss(batch)["loss"]
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0.01, atol=0.01)
    for name, grad in gradients(model, near).items():
        assert (grad - exact_grads[name]).norm() <= 0.05 * exact_grads[name].norm() + 1e-4, name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiling_changes_nothing(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    torch._dynamo.reset()
    plain = ILMLoss(model, tokenizer, chunk_elements=700)
    compiled = ILMLoss(copy.deepcopy(model), tokenizer, chunk_elements=700)
    compiled.__dict__["loss_fn"] = torch.compile(compiled.loss_fn)
    collate = ILMSeq2SeqCollator(tokenizer, 11, 9, pad_to="block")
    for seed in range(3):
        batch = collate([{**example, "noise_seed": seed + i} for i, example in enumerate(EXAMPLES)])  # type: ignore[misc]
        one, other = plain(batch), compiled(batch)
        torch.testing.assert_close(one["loss"], other["loss"])
        torch.testing.assert_close(one["nll_bound"], other["nll_bound"])
        grads, other_grads = gradients(model, one["loss"]), gradients(compiled.model, other["loss"])
        for name, grad in grads.items():
            torch.testing.assert_close(grad, other_grads[name], msg=name)

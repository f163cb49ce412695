"""Chunks change nothing: loss and gradients are those of the plain form, and memory stays a chunk's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.modules.linear_cross_entropy import Reduction, linear_cross_entropy

REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")


def plain(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    reduction: str,
    exclude: Sequence[int] = (),
) -> torch.Tensor:
    logits = F.linear(hidden, weight, bias)
    if exclude:
        logits = logits.index_fill(1, torch.tensor(list(exclude)), -torch.inf)
    return F.cross_entropy(logits, targets, ignore_index=-100, reduction=reduction)


@settings(max_examples=50, deadline=None)
@given(
    num_rows=st.integers(1, 20),
    vocab=st.integers(2, 9),
    chunk_rows=st.one_of(st.none(), st.integers(1, 25)),
    reduction=st.sampled_from(REDUCTIONS),
    with_bias=st.booleans(),
    exclude_first=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_it_equals_the_plain_form_with_gradients(
    num_rows: int,
    vocab: int,
    chunk_rows: int | None,
    reduction: Reduction,
    with_bias: bool,
    exclude_first: bool,
    seed: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True)
        for shape in ((num_rows, 5), (vocab, 5), (vocab,))
    )
    targets = torch.randint(1, vocab, (num_rows,), generator=g)
    targets[1:][torch.rand(num_rows - 1, generator=g) < 0.3] = -100
    upstream = torch.randn(num_rows if reduction == "none" else (), generator=g, dtype=torch.float64)
    exclude = (0,) if exclude_first else ()
    inputs = (hidden, weight, bias) if with_bias else (hidden, weight)
    used = bias if with_bias else None
    expected = plain(hidden, weight, used, targets, reduction, exclude)
    found = linear_cross_entropy(
        hidden, weight, used, targets, chunk_rows=chunk_rows, reduction=reduction, exclude_ids=exclude
    )
    assert torch.allclose(found, expected, atol=1e-12)
    grads = (torch.autograd.grad((loss * upstream).sum(), inputs) for loss in (expected, found))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_float32_is_exact_to_1e_6(reduction: Reduction) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 32, requires_grad=True), (torch.randn(50, 32) * 0.1).requires_grad_()
    targets = torch.randint(0, 50, (300,))
    expected = plain(hidden, weight, None, targets, reduction)
    found = linear_cross_entropy(hidden, weight, None, targets, chunk_rows=64, reduction=reduction)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    for a, b in zip(*(torch.autograd.grad(x.mean(), (hidden, weight)) for x in (expected, found)), strict=True):
        assert (a - b).abs().max() <= 1e-6 * max(1, a.abs().max())


@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_nothing_to_predict_is_zero_with_zero_gradients(chunk_rows: int | None) -> None:
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    for rows in (hidden, hidden[:0]):
        targets = torch.full((rows.shape[0],), -100)
        loss = linear_cross_entropy(rows, weight, None, targets, chunk_rows=chunk_rows)
        assert loss == 0
        assert not any(g.any() for g in torch.autograd.grad(loss, (hidden, weight)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_autocast_gives_float32_losses_from_bfloat16_products(reduction: Reduction) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    targets = torch.randint(0, 9, (20,))
    with torch.autocast("cpu", torch.bfloat16):
        losses = [
            linear_cross_entropy(hidden, weight, None, targets, chunk_rows=n, reduction=reduction) for n in (None, 7)
        ]
    assert losses[1].dtype == torch.float32
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (hidden, weight)) for x in losses), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert (a - b).norm() < 0.02 * a.norm()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_in_one_graph_for_any_number_of_rows(reduction: Reduction) -> None:
    weight = torch.randn(9, 8, requires_grad=True)

    def loss(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(hidden.tanh(), weight, None, targets, chunk_rows=7, reduction=reduction).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (20, 13):
        hidden, targets = torch.randn(rows, 8, requires_grad=True), torch.randint(0, 9, (rows,))
        grads = (torch.autograd.grad(f(hidden, targets), (hidden, weight)) for f in (loss, compiled))
        for a, b in zip(*grads, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_evaluation_makes_no_gradients() -> None:
    hidden, weight = torch.randn(6, 3), torch.randn(5, 3, requires_grad=True)
    targets = torch.randint(0, 5, (6,))
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, None, targets, chunk_rows=2).requires_grad
    with torch.inference_mode():
        found = linear_cross_entropy(hidden, weight, None, targets, chunk_rows=2, reduction="none")
    assert torch.allclose(found, plain(hidden, weight, None, targets, "none"), atol=1e-6)


def test_logits_never_all_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = F.linear

    def watch(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        nonlocal largest
        out = original(x, w, b)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr("torch.nn.functional.linear", watch)
    hidden, weight = torch.randn(3000, 2, requires_grad=True), torch.randn(1000, 2, requires_grad=True)
    linear_cross_entropy(hidden, weight, None, torch.randint(0, 1000, (3000,))).backward()
    assert 0 < largest <= 2**20
    largest = 0
    linear_cross_entropy(hidden[:100], weight, None, torch.randint(0, 1000, (100,))).backward()
    assert largest == 100 * 1000


def test_impossible_options_say_so() -> None:
    h, w, t = torch.randn(2, 3), torch.randn(4, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"Unknown reduction 'avg'\. Choices: mean, sum, none"):
        linear_cross_entropy(h, w, None, t, reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunk_rows must be at least 1, got 0"):
        linear_cross_entropy(h, w, None, t, chunk_rows=0)

"""Rotation is relative, exact in float32, and independent of table size, dtype and layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.modules.position import RotaryEmbedding


def reference(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Complex multiplication by e^{i·position·frequency}, x (B, H, L, dim)."""
    dim = x.shape[-1]
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = positions.double()[:, None, :, None] * frequency
    pairs = torch.complex(*x.double().chunk(2, dim=-1)) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 60), st.integers(0, 2**31))
def test_it_is_the_half_split_rotation(half: int, cache_size: int, largest: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 5, 2 * half, generator=generator)
    positions = torch.randint(0, largest + 1, (2, 5), generator=generator)
    rotary = RotaryEmbedding(2 * half, cache_size=cache_size)
    assert torch.allclose(rotary(x, positions).double(), reference(x, positions), atol=1e-4)


def test_products_depend_on_distances_only() -> None:
    torch.manual_seed(0)
    rotary = RotaryEmbedding(8)
    q, k = torch.randn(2, 1, 1, 6, 8)
    scores = [rotary(q, p) @ rotary(k, p).transpose(-1, -2) for p in (torch.arange(6), torch.arange(6) + 100)]
    assert torch.allclose(*scores, atol=1e-4)


def test_the_gradient_is_that_of_the_rotation() -> None:
    rotary = RotaryEmbedding(6).double()
    x = torch.randn(2, 4, 3, 6, dtype=torch.float64)[:, ::2].requires_grad_()
    positions = torch.tensor([[0, 3, 1], [2, 2, 7]])
    assert torch.autograd.gradcheck(lambda x: rotary(x, positions), x)
    assert torch.autograd.gradgradcheck(lambda x: rotary(x, positions), x)


@pytest.mark.parametrize("inference", [False, True])
def test_positions_that_change_in_place_are_looked_up_again(inference: bool) -> None:
    rotary, x = RotaryEmbedding(8), torch.randn(1, 2, 5, 8)
    with torch.inference_mode(inference):
        positions = torch.arange(5)
        first = rotary(x, positions)
        positions += 3
        assert not torch.equal(rotary(x, positions), first)
        assert torch.equal(rotary(x, positions), RotaryEmbedding(8)(x, torch.arange(3, 8)))


def test_no_positions_are_counted_from_zero_and_tables_grow() -> None:
    x = torch.randn(1, 2, 50, 8)
    small, large = RotaryEmbedding(8, cache_size=4), RotaryEmbedding(8, cache_size=100)
    assert large.cos.shape[0] == 101
    assert torch.equal(small(x), large(x))
    assert torch.equal(small(x, torch.arange(50)), large(x, torch.arange(50)[None]))
    # DDP broadcasts buffers: their size is not a matter of what came.
    assert small.cos.shape[0] == 5
    pads = torch.arange(50) - 1
    assert torch.allclose(small(x, pads)[..., 1:, :], large(x, pads)[..., 1:, :])


def test_heads_may_come_after_positions() -> None:
    x = torch.randn(2, 3, 5, 8)
    positions = torch.randint(0, 9, (2, 5))
    other = RotaryEmbedding(8, head_first=False)(x.transpose(1, 2), positions).transpose(1, 2)
    assert torch.equal(RotaryEmbedding(8)(x, positions), other)


def test_bfloat16_rotates_in_float32() -> None:
    rotary = RotaryEmbedding(64)
    x = torch.randn(1, 1, 1000, 64).bfloat16()
    exact = reference(x, torch.arange(1000)[None])
    for module in (rotary, rotary.bfloat16(), rotary.half()):
        assert module.inv_freq.dtype == torch.float32
        out = module(x)
        assert out.dtype == torch.bfloat16
        # One rounding to bfloat16, no more.
        assert torch.allclose(out.double(), exact, rtol=2**-8, atol=2**-8)


def test_double_precision_stays_double() -> None:
    rotary = RotaryEmbedding(8).double()
    assert rotary(torch.randn(1, 1, 3, 8, dtype=torch.float64)).dtype == torch.float64


def test_only_frequencies_are_saved_and_their_absence_is_forgiven() -> None:
    rotary = RotaryEmbedding(8)
    assert list(rotary.state_dict()) == ["inv_freq"]
    rotary.load_state_dict({})
    x = torch.randn(1, 1, 4, 8)
    before = rotary(x)
    rotary.load_state_dict({"inv_freq": rotary.inv_freq * 2})
    assert torch.allclose(rotary(x, torch.arange(4)), RotaryEmbedding(8)(x, torch.arange(4) * 2))
    assert not torch.equal(rotary(x), before)


def test_meta_modules_come_alive() -> None:
    with torch.device("meta"):
        rotary = RotaryEmbedding(8)
    assert rotary.to("meta").inv_freq.is_meta
    x = torch.randn(1, 1, 4, 8)
    assert torch.equal(rotary.to_empty(device="cpu")(x), RotaryEmbedding(8)(x))


def test_a_lookup_in_inference_serves_training() -> None:
    rotary, x, positions = RotaryEmbedding(8), torch.randn(1, 2, 5, 8, requires_grad=True), torch.arange(5)
    with torch.inference_mode():
        rotary(x, positions)
    rotary(x, positions).sum().backward()
    assert x.grad is not None


def test_tables_grown_in_inference_serve_training() -> None:
    rotary = RotaryEmbedding(8, cache_size=2)
    with torch.inference_mode():
        rotary(torch.randn(1, 1, 20, 8))
    rotary(torch.randn(1, 1, 20, 8, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("positions", [None, torch.arange(20)])
def test_compiled_is_the_same_even_beyond_the_tables(positions: torch.Tensor | None) -> None:
    rotary = RotaryEmbedding(8, cache_size=4)
    compiled = torch.compile(rotary, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 2, 20, 8)
    assert torch.allclose(compiled(x, positions), RotaryEmbedding(8)(x), atol=1e-6)


def test_an_odd_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="even dimension, got 7"):
        RotaryEmbedding(7)

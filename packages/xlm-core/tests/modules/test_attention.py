"""All ways to say what may be attended agree with plain softmax attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from xlm.modules.attention import attention, causal_mask, drop_full_mask, positions_from_mask

B, H, Q, K, D = 3, 2, 5, 7, 4


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v


@pytest.fixture
def qkv() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(B, H, n, D, dtype=torch.float64) for n in (Q, K, K))  # type: ignore[return-value]


Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [None, (B, K), (B, Q, K), (B, 1, Q, K), (B, H, Q, K)])
def test_masks_of_any_rank(qkv: Triple, shape: tuple[int, ...] | None, is_causal: bool) -> None:
    mask = None
    allowed = torch.ones(B, 1, Q, K, dtype=torch.bool)
    if shape is not None:
        mask = torch.rand(shape) < 0.6
        mask[..., 0] = True  # no query without a key here
        allowed = allowed & (mask[:, None, None] if len(shape) == 2 else mask[:, None] if len(shape) == 3 else mask)
    if is_causal:
        allowed = allowed & causal_mask(Q, K, torch.device("cpu"))
    out = attention(*qkv, mask, is_causal=is_causal)
    assert torch.allclose(out, reference(*qkv, allowed))


def test_integer_masks_are_tolerated(qkv: Triple) -> None:
    mask = torch.arange(K).expand(B, K) < 4
    assert torch.equal(attention(*qkv, mask.long()), attention(*qkv, mask))


def test_the_causal_flag_equals_the_dense_mask(qkv: Triple) -> None:
    _, k, v = qkv
    q = torch.randn(B, H, K, D, dtype=torch.float64)
    dense = causal_mask(K, K, torch.device("cpu"))
    assert torch.allclose(attention(q, k, v, is_causal=True), reference(q, k, v, dense))
    assert torch.allclose(attention(q, k, v, dense.expand(B, K, K)), reference(q, k, v, dense))


def test_the_kernels_own_flag_is_used_where_no_mask_forbids_it(qkv: Triple, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, *, is_causal: bool
    ) -> torch.Tensor:
        seen.append((mask is None, is_causal))
        return original(q, k, v, mask, is_causal=is_causal)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", spy)
    q, k, v = qkv
    attention(k, k, v, is_causal=True)
    attention(q, k, v, is_causal=True)  # a cached prefix: the flag would align the wrong corner
    attention(q[:, :, :1], k, v, is_causal=True)  # one new token sees everything
    attention(k, k, v, torch.ones(B, K, dtype=torch.bool), is_causal=True)
    assert seen == [(True, True), (False, False), (True, False), (False, False)]


def test_a_query_without_keys_gives_finite_values_and_gradients(qkv: Triple) -> None:
    q, k, v = (x.requires_grad_() for x in qkv)
    mask = torch.ones(B, K, dtype=torch.bool)
    mask[0] = False
    mask[1, :4] = False
    for is_causal in (False, True):
        out = attention(k, k, v, mask, is_causal=is_causal)
        out.sum().backward()
        assert out.isfinite().all()
        assert k.grad is not None
        assert k.grad.isfinite().all()
    assert q.grad is None


def test_a_block_mask_equals_its_dense_form(qkv: Triple) -> None:
    _, k, v = qkv

    def two_documents(b: object, h: object, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (i >= 3) == (j >= 3)

    block = create_block_mask(two_documents, None, None, K, K, device="cpu")
    index = torch.arange(K)
    dense = (index[:, None] >= 3) == (index >= 3)
    assert torch.allclose(attention(k, k, v, block_mask=block), reference(k, k, v, dense))
    with pytest.raises(ValueError, match="block_mask says alone"):
        attention(k, k, v, block_mask=block, is_causal=True)


def test_forced_flash_attention_gives_the_same() -> None:
    x = torch.randn(1, 1, 4, 8)
    assert torch.allclose(attention(x, x, x, is_causal=True, force_flash_attn=True), attention(x, x, x, is_causal=True))


def test_a_mask_of_the_wrong_size_is_named(qkv: Triple) -> None:
    with pytest.raises(ValueError, match="5 queries and 7 keys"):
        attention(*qkv, torch.ones(B, K - 1, dtype=torch.bool))


def test_masks_that_forbid_nothing_are_dropped() -> None:
    full = torch.ones(2, 3, dtype=torch.bool)
    assert drop_full_mask(None) is None
    assert drop_full_mask(full) is None
    full[0, 0] = False
    assert drop_full_mask(full) is full


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]], dtype=torch.bool)
    assert positions_from_mask(mask).tolist() == [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 2]]

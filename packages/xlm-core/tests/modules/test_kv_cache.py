"""A cache changes nothing: any split of any left-padded batch gives what one pass over each row alone gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.modules.attention import KVCache, LayerKVCache
from xlm.modules.rotary_transformer import RotaryEmbedding, RotaryTransformerLayer, RotaryTransformerLayerList

D_MODEL, NHEAD, LAYERS, VOCAB = 16, 2, 2, 11


def make_net() -> tuple[torch.nn.Embedding, RotaryTransformerLayerList]:
    torch.manual_seed(0)
    layer = RotaryTransformerLayer(D_MODEL, NHEAD, dropout=0.0)
    rotary = RotaryEmbedding(D_MODEL // NHEAD, cache_size=3)
    layers = RotaryTransformerLayerList.from_layer(layer, LAYERS, rotary)
    return torch.nn.Embedding(VOCAB, D_MODEL).double(), layers.double().eval()


EMBED, NET = make_net()


def alone(ids: torch.Tensor) -> torch.Tensor:
    """One row, no padding, no cache."""
    return NET(EMBED(ids[None]), None, is_causal=True)[0]


def step(cache: KVCache, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    positions, keys = cache.advance(ids, mask)
    return NET(EMBED(ids), keys, positions, is_causal=True, cache=cache)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    steps=st.lists(st.integers(1, 3), max_size=4),
    seed=st.integers(0, 2**31),
)
@torch.no_grad()
def test_prefill_and_steps_equal_one_pass_per_row(lengths: list[int], steps: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    width, total = max(lengths), max(lengths) + sum(steps)
    ids = torch.randint(0, VOCAB, (len(lengths), total), generator=generator)
    starts = torch.tensor([width - n for n in lengths])
    mask = torch.arange(width) >= starts[:, None]
    truth = [alone(row[start:]) for row, start in zip(ids, starts, strict=True)]
    cache = KVCache(LAYERS, total)
    rows = torch.arange(len(lengths))
    pieces = step(cache, ids[:, :width], None if bool(mask.all()) else mask)
    for row in rows:
        assert torch.allclose(pieces[row, starts[row] :], truth[row][: lengths[row]])
    done = width
    for size in steps:
        if len(rows) > 1:  # one row leaves the batch, the others change places
            kept = torch.randperm(len(rows), generator=generator)[:-1]
            cache.select(kept)
            rows = rows[kept]
        out = step(cache, ids[rows, done : done + size])
        done += size
        for place, row in enumerate(rows):
            expected = truth[row][done - size - starts[row] : done - starts[row]]
            assert torch.allclose(out[place], expected)
    assert cache.length == done


@torch.no_grad()
def test_rows_may_be_chosen_by_mask_or_doubled() -> None:
    ids = torch.randint(0, VOCAB, (3, 6))
    cache = KVCache(LAYERS, 6)
    step(cache, ids[:, :4])
    cache.select(torch.tensor([True, False, True]))
    cache.select(torch.tensor([1, 0, 1, 1]))
    out = step(cache, ids[[2, 0, 2, 2], 4:])
    assert torch.allclose(out[0], alone(ids[2])[4:])
    assert torch.allclose(out[1], alone(ids[0])[4:])
    assert torch.equal(out[0], out[3])


@torch.no_grad()
def test_a_rejected_tail_is_forgotten() -> None:
    ids = torch.randint(0, VOCAB, (2, 8))
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, 0] = False
    for prefix_mask, start in ((None, 0), (mask, 1)):
        cache = KVCache(LAYERS, 8)
        step(cache, ids[:, :4], prefix_mask)
        step(cache, torch.randint(0, VOCAB, (2, 3)))
        cache.truncate(4)
        cache.truncate(99)
        out = step(cache, ids[:, 4:])
        assert torch.allclose(out[0], alone(ids[0, start:])[4 - start :])


@torch.no_grad()
def test_padding_may_come_later_too() -> None:
    ids = torch.randint(0, VOCAB, (2, 5))
    cache = KVCache(LAYERS, 5)
    step(cache, ids[:, :2])
    step(cache, ids[:, 2:4], torch.tensor([[True, True], [False, True]]))
    out = step(cache, ids[:, 4:])
    assert torch.allclose(out[1, -1], alone(ids[1, [0, 1, 3, 4]])[-1])
    assert torch.allclose(out[0, -1], alone(ids[0])[-1])


def test_without_padding_there_is_no_mask() -> None:
    cache = KVCache(1, 9)
    positions, mask = cache.advance(torch.zeros(2, 3, dtype=torch.long))
    assert positions.tolist() == [0, 1, 2]
    assert mask is None
    positions, mask = cache.advance(torch.zeros(2, 1, dtype=torch.long))
    assert positions.tolist() == [3]
    assert mask is None


def test_memory_is_allocated_once() -> None:
    layer = LayerKVCache(4)
    k = torch.randn(2, 1, 1, 3)
    first, _ = layer.append(k, k)
    second, _ = layer.append(k, k)
    layer.select(torch.tensor([1]))
    third, values = layer.append(k[:1], k[:1])
    assert first.data_ptr() == second.data_ptr() == third.data_ptr()
    assert values.shape == (1, 1, 3, 3)


def test_tokens_that_do_not_fit_say_so() -> None:
    cache = KVCache(1, 3)
    ids = torch.zeros(2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"attention_mask is \(2, 1\), the new tokens are \(2, 2\)"):
        cache.advance(ids, torch.ones(2, 1, dtype=torch.bool))
    cache.advance(ids)
    with pytest.raises(ValueError, match="KV cache is full: 2 tokens stored, 2 more, room 3"):
        cache.advance(ids)
    layer = cache[0]
    k = torch.zeros(2, 1, 2, 4)
    layer.append(k, k)
    with pytest.raises(ValueError, match="KV cache is full: 2 tokens stored, 2 more, room 3"):
        layer.append(k, k)
    with pytest.raises(ValueError, match="KV cache holds 2 rows, got 1"):
        layer.append(k[:1, :, :1], k[:1, :, :1])
    assert len(cache) == 1

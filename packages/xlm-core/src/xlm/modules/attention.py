"""Scaled dot-product attention in one function (masks of any rank, causal flag, block masks), and the KV cache."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from xlm.modules.packing import Packing
    from xlm.modules.position import RotaryEmbedding


class LayerKVCache:
    """One layer's keys and values, (B, H, capacity, dim), allocated at the first append from what comes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(
        self, keys: Float[Tensor, "batch heads new dim"], values: Float[Tensor, "batch heads new dim"]
    ) -> tuple[Float[Tensor, "batch heads total dim"], Float[Tensor, "batch heads total dim"]]:
        """Store these tokens' keys and values; returns views on all stored so far, oldest first."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"KV cache is full: {self.length} tokens stored, {end - self.length} more, room {self.capacity}"
            )
        if self._keys is None or self._values is None:
            shape = (keys.shape[0], keys.shape[1], self.capacity, keys.shape[3])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        elif self._keys.shape[0] != keys.shape[0]:
            raise ValueError(f"KV cache holds {self._keys.shape[0]} rows, got {keys.shape[0]}")
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def select(self, rows: Integer[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; a row may be named twice."""
        if self._keys is not None and self._values is not None:
            self._keys = _select_rows(self._keys, rows, self.length)
            self._values = _select_rows(self._values, rows, self.length)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)


def _select_rows(stored: Tensor, rows: Tensor, length: int) -> Tensor:
    kept = stored[:, :, :length].index_select(0, rows)
    num_rows = rows.numel()
    # Into the head of the same buffer: a second one is never alive, and only what is filled is copied.
    target = stored[:num_rows] if num_rows <= stored.shape[0] else stored.new_empty((num_rows, *stored.shape[1:]))
    target[:, :, :length] = kept
    return target


class KVCache:
    """The caches of all layers, with what they share: length, padding and each row's next position.

    A forward pass calls `advance` once, then gives `cache[i]` to layer i. Rows may be left-padded; ended rows
    leave by `select`. For a causal model the result is that of one pass over the whole sequence.
    """

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.layers = [LayerKVCache(capacity) for _ in range(num_layers)]
        # (B, capacity) and (B,), once some token was padding; until then every row has `length` real tokens.
        self._mask: Tensor | None = None
        self._num_real: Tensor | None = None
        # What makes the steps of this text fast, by whoever steps; see `xlm.modules.single_token`.
        self.stack: Any = None

    def __getitem__(self, layer: int) -> LayerKVCache:
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self.layers)

    def advance(
        self, input_ids: Integer[Tensor, "batch new"], attention_mask: Bool[Tensor, "batch new"] | None = None
    ) -> tuple[Integer[Tensor, "*batch new"], Bool[Tensor, "batch total"] | None]:
        """Announce the tokens of this pass: returns their positions and the mask over all keys with theirs.

        attention_mask says which of the new tokens are real (None: all). Positions count real tokens only, so
        left padding changes nothing. The mask is None while every token so far is real.
        """
        start, end = self.length, self.length + input_ids.shape[1]
        if end > self.capacity:
            raise ValueError(f"KV cache is full: {start} tokens stored, {end - start} more, room {self.capacity}")
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask is {tuple(attention_mask.shape)}, the new tokens are {tuple(input_ids.shape)}"
            )
        self.length = end
        if attention_mask is None and self._mask is None:
            return torch.arange(start, end, device=input_ids.device), None
        if self._mask is None or self._num_real is None:
            self._mask = torch.zeros(input_ids.shape[0], self.capacity, dtype=torch.bool, device=input_ids.device)
            self._mask[:, :start] = True
            self._num_real = self._mask[:, :start].sum(dim=-1)
        self._mask[:, start:end] = True if attention_mask is None else attention_mask
        counted = self._num_real.unsqueeze(-1) + self._mask[:, start:end].long().cumsum(dim=-1)
        self._num_real = counted[:, -1]
        return (counted - 1).clamp_(min=0), self._mask[:, :end]

    def select(self, rows: Integer[Tensor, " kept"] | Bool[Tensor, " batch"]) -> None:
        """Keep these rows (indices in the new order, or a bool per row); they decode on as if alone."""
        index = rows.nonzero().squeeze(-1) if rows.dtype == torch.bool else rows
        for layer in self.layers:
            layer.select(index)
        if self._mask is not None and self._num_real is not None:
            self._mask, self._num_real = self._mask[index], self._num_real[index]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens of every row, for instance a rejected block."""
        if length >= self.length:
            return
        if self._mask is not None and self._num_real is not None:
            self._num_real = self._num_real - self._mask[:, length : self.length].sum(dim=-1)
        for layer in self.layers:
            layer.truncate(length)
        self.length = length


def drop_full_mask(attention_mask: Bool[Tensor, "*shape"] | None) -> Bool[Tensor, "*shape"] | None:
    """None if the mask forbids nothing, so that the faster kernels apply.

    Looks only on the CPU: elsewhere the answer would wait for the device, so the mask is returned as it is.
    """
    if attention_mask is None or attention_mask.device.type != "cpu" or torch.compiler.is_compiling():
        return attention_mask
    return None if bool(attention_mask.all()) else attention_mask


def positions_from_mask(attention_mask: Bool[Tensor, "batch length"]) -> Integer[Tensor, "batch length"]:
    """0, 1, 2 … over the real tokens of each row, so that padding changes no position; pads repeat one."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_(min=0)


def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Bool[Tensor, "queries keys"]:
    """True = attend; queries are the last of the keys: query i sees keys 0 … num_keys − num_queries + i."""
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return mask.tril_(num_keys - num_queries)


def combined_mask(mask: Tensor | None, num_queries: int, num_keys: int, causal: bool, like: Tensor) -> Tensor | None:
    """What the kernel takes: (B or 1, 1, Q or 1, K), or None; no query is left without a key."""
    if mask is not None:
        mask = mask.bool()
        if mask.ndim == 2:
            mask = mask[:, None, None, :]
        elif mask.ndim == 3:
            mask = mask[:, None]
        if mask.shape[-1] != num_keys or mask.shape[-2] not in (1, num_queries):
            raise ValueError(
                f"attention_mask is {tuple(mask.shape)} after adding dimensions, but there are "
                f"{num_queries} queries and {num_keys} keys"
            )
    if causal:
        triangle = causal_mask(num_queries, num_keys, like.device)
        mask = triangle if mask is None else mask & triangle
    # A pad that sees nothing is 0/0 in some kernels, and its gradient NaN: let it see all; nobody reads it.
    return None if mask is None else mask | ~mask.any(dim=-1, keepdim=True)


def attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys dim"],
    attention_mask: Bool[Tensor, "*mask"] | None = None,
    *,
    is_causal: bool = False,
    block_mask: BlockMask | None = None,
    force_flash_attn: bool = False,
) -> Float[Tensor, "batch heads queries dim"]:
    """softmax(q kᵀ / √dim) v where allowed.

    attention_mask: (B, K), (B, Q, K) or (B, H, Q, K), True = attend; None = all. is_causal: the queries are the
    last of the keys and see none after themselves; the kernel's own flag is used where no mask forbids it.
    """
    if block_mask is not None:
        if attention_mask is not None or is_causal:
            raise ValueError("block_mask says alone what may be attended: pass neither attention_mask nor is_causal")
        return _flex(q, k, v, block_mask)
    num_queries, num_keys = q.shape[-2], k.shape[-2]
    causal = is_causal and num_queries > 1
    by_flag = causal and attention_mask is None and num_queries == num_keys
    mask = combined_mask(attention_mask, num_queries, num_keys, causal and not by_flag, q)
    if force_flash_attn:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=by_flag)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=by_flag)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask) -> Tensor:
    from torch.nn.attention.flex_attention import create_mask, flex_attention

    if torch.compiler.is_compiling():
        return flex_attention(q, k, v, block_mask=block_mask)
    if q.device.type == "cpu":
        # Unfused flex attention is slow here, and compiling it takes longer than small runs last.
        rows = block_mask.shape[0]
        dense = create_mask(block_mask.mask_mod, rows, block_mask.shape[1], q.shape[-2], k.shape[-2], str(q.device))
        return F.scaled_dot_product_attention(q, k, v, dense | ~dense.any(dim=-1, keepdim=True))
    return _compiled_flex()(q, k, v, block_mask=block_mask)


def rotary_self_attention(
    qkv: Float[Tensor, "batch length three_d_model"],
    nhead: int,
    rotary_emb: RotaryEmbedding,
    attention_mask: Bool[Tensor, "*mask"] | None,
    positions: Integer[Tensor, "*batch length"] | None,
    *,
    block_mask: BlockMask | None = None,
    is_causal: bool = False,
    cache: LayerKVCache | None = None,
    force_flash_attn: bool = False,
    packing: Packing | None = None,
) -> Float[Tensor, "batch length d_model"]:
    """Multi-head attention on fused projections (query, key, value: heads × head dim each), with rotation.

    With a cache, keys and values of these tokens are appended to it and attention runs over all it holds; the
    mask then covers all of them. With a packing, projections, positions and result are packed; the mask is that of the
    padded rows.
    """
    B, L, width = qkv.shape
    qkv = qkv.view(B, L, 3 * nhead, width // (3 * nhead)).transpose(1, 2)
    qk, v = qkv.split((2 * nhead, nhead), dim=1)
    qk = rotary_emb(qk, positions)
    if packing is not None:
        is_plain = block_mask is None and cache is None and (attention_mask is None or attention_mask.ndim == 2)
        if is_plain and (lengths := packing.lengths(width // 3)) is not None:
            of_rows = zip(*(x.split(lengths, dim=2) for x in (*qk.chunk(2, dim=1), v)), strict=True)
            rows = [attention(*row, is_causal=is_causal, force_flash_attn=force_flash_attn) for row in of_rows]
            return torch.cat([row.transpose(1, 2).flatten(2) for row in rows], dim=1)
        qk, v = packing.unpack(qk), packing.unpack(v)
    q, k = qk.chunk(2, dim=1)
    if cache is not None:
        k, v = cache.append(k, v)
    out = attention(
        q,
        k,
        v,
        attention_mask,
        is_causal=is_causal,
        block_mask=block_mask,
        force_flash_attn=force_flash_attn,
    )
    out = out.transpose(1, 2).flatten(2)
    return out if packing is None else packing.pack(out)

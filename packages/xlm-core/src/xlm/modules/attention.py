"""Scaled dot-product attention behind one door: masks of any rank, causal flag, KV cache, block masks."""

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

    from xlm.modules.kv_cache import LayerKVCache
    from xlm.modules.position import RotaryEmbedding


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


def _combined_mask(mask: Tensor | None, num_queries: int, num_keys: int, causal: bool, like: Tensor) -> Tensor | None:
    """(B or 1, 1, Q or 1, K), or None; no query is left without a key."""
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
    mask = _combined_mask(attention_mask, num_queries, num_keys, causal and not by_flag, q)
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
) -> Float[Tensor, "batch length d_model"]:
    """Multi-head attention on fused projections (query, key, value: heads × head dim each), with rotation.

    With a cache, keys and values of these tokens are appended to it and attention runs over all it holds; the
    mask then covers all of them.
    """
    B, L, width = qkv.shape
    qkv = qkv.view(B, L, 3 * nhead, width // (3 * nhead)).transpose(1, 2)
    qk, v = qkv.split((2 * nhead, nhead), dim=1)
    q, k = rotary_emb(qk, positions).chunk(2, dim=1)
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
    return out.transpose(1, 2).reshape(B, L, width // 3)

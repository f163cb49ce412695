"""One token a row through layers with a cache, by the layers' arithmetic without the calls of their modules."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from xlm.modules.attention import KVCache, combined_mask
from xlm.modules.position import RotaryEmbedding
from xlm.modules.rotary_transformer import RotaryTransformerLayer, RotaryTransformerLayerList

# Most weights that are copied into another order, and the fewest tokens for which that pays.
_MOST_REORDERED = 2**24
_FEWEST_TOKENS = 32
# There is no such stack: asking once is enough.
_NONE = object()


class _Layer(NamedTuple):
    """What a `RotaryTransformerLayer` computes with."""

    norm1: nn.LayerNorm
    qkv: Tensor
    o_proj: Tensor
    norm2: nn.LayerNorm
    up: Tensor
    up_bias: Tensor | None
    activation: nn.Module
    down: Tensor
    down_bias: Tensor | None


class SingleTokenStack:
    """What `RotaryTransformerLayerList` computes for one new token a row, in evaluation and without gradients.

    A step of generation consists of many small operations, and calls of modules take longer than most of them. Made
    by `of`, once per text: weights that change afterwards may not be seen.
    """

    def __init__(self, layers: Any, num_tokens: int) -> None:
        self._nhead: int = layers[0].nhead
        self._rotary: RotaryEmbedding = layers[0].rotary_emb
        self._width = layers[0].norm1.normalized_shape
        maps = [m for layer in layers for m in (layer.attn_qkv, layer.o_proj, layer.mlp[0], layer.mlp[2])]
        reorders = num_tokens >= _FEWEST_TOKENS and sum(m.weight.numel() for m in maps) <= _MOST_REORDERED
        order = _by_input if reorders and all(_is_of_cpu(m.weight) for m in maps) else _as_is
        self._layers = [
            _Layer(
                layer.norm1,
                order(layer.attn_qkv.weight),
                order(layer.o_proj.weight),
                layer.norm2,
                order(layer.mlp[0].weight),
                layer.mlp[0].bias,
                layer.mlp[1],
                order(layer.mlp[2].weight),
                layer.mlp[2].bias,
            )
            for layer in layers
        ]

    @classmethod
    def of(cls, layers: Any, num_tokens: int) -> SingleTokenStack | None:
        """The stack of these layers for texts of so many tokens.

        None where the modules do more, or something else, than the classes of this package: layers of another type,
        hooks, adapters, quantized or compiled parts.
        """
        is_known = _is_as_made(layers, RotaryTransformerLayerList) and not _has_any_global_hook()
        return cls(layers, num_tokens) if is_known and all(map(_is_known, layers)) else None

    def __call__(
        self,
        x: Float[Tensor, "batch 1 d_model"],
        attention_mask: Bool[Tensor, "batch total"] | None,
        positions: Integer[Tensor, "*batch 1"],
        cache: KVCache,
    ) -> Float[Tensor, "batch 1 d_model"]:
        """Hidden vectors; mask and positions are those of `cache.advance`, and the cache is extended."""
        cos, sin = self._rotary.tables_at(positions)
        # Both halves of a head at once: (first, second) · (cos, cos) + (second, first) · (−sin, sin).
        cos, sin = torch.cat((cos, cos), -1).unsqueeze(-3), torch.cat((-sin, sin), -1).unsqueeze(-3)
        mask = combined_mask(attention_mask, 1, cache.length, causal=False, like=x)
        x = x.squeeze(1)
        for layer, stored in zip(self._layers, cache.layers, strict=True):
            x = x + F.linear(self._attended(layer, self._normed(x, layer.norm1), mask, cos, sin, stored), layer.o_proj)
            inner = layer.activation(F.linear(self._normed(x, layer.norm2), layer.up, layer.up_bias))
            x = x + F.linear(inner, layer.down, layer.down_bias)
        return x.unsqueeze(1)

    def _normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, self._width, norm.weight, norm.bias, norm.eps)

    def _attended(self, layer: _Layer, x: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor, cache: Any) -> Tensor:
        """(B, D): attention of each row's token, whose keys and values the layer's cache has then."""
        nhead, num_rows = self._nhead, x.shape[0]
        qkv = F.linear(x, layer.qkv).view(num_rows, 3 * nhead, 1, -1)
        qk, v = qkv.split_with_sizes((2 * nhead, nhead), 1)
        turned = torch.addcmul(qk * cos, qk.roll(qk.shape[-1] // 2, -1), sin).to(qk.dtype)
        q, k = turned.chunk(2, 1)
        keys, values = cache.append(k, v)
        return F.scaled_dot_product_attention(q, keys, values, mask).reshape(num_rows, -1)


def single_token_stack(layers: Any, cache: KVCache) -> SingleTokenStack | None:
    """The stack of the text that a cache belongs to, made when first asked for; None where there is none."""
    if cache.stack is None:
        cache.stack = SingleTokenStack.of(layers, cache.capacity - cache.length) or _NONE
    stack: SingleTokenStack | None = None if cache.stack is _NONE else cache.stack
    return stack


def _is_known(layer: Any) -> bool:
    """Whether a layer computes what is written here, with maps that are nothing but their weights."""
    if not _is_as_made(layer, RotaryTransformerLayer) or layer.short_conv is not None or layer.force_flash_attn:
        return False
    mlp = layer.mlp
    if not _is_as_made(mlp, nn.Sequential) or len(mlp) != 3:
        return False
    return (
        all(_is_as_made(part, nn.LayerNorm) for part in (layer.norm1, layer.norm2))
        and all(_is_as_made(part, nn.Linear) for part in (layer.attn_qkv, layer.o_proj, mlp[0], mlp[2]))
        and _is_as_made(layer.rotary_emb, RotaryEmbedding)
        and _is_as_made(layer.dropout, nn.Dropout)
        and layer.o_proj.bias is None
        and layer.attn_qkv.bias is None
    )


def _is_as_made(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a call of a module runs the method of exactly this class and nothing else."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and module._compiled_call_impl is None
        and not (module._forward_hooks or module._forward_pre_hooks)
    )


def _is_of_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _by_input(weight: Tensor) -> Tensor:
    """The same matrix in the memory order of its transpose, with which products of few rows are faster on a CPU."""
    return weight.t().contiguous().t()


def _as_is(weight: Tensor) -> Tensor:
    return weight

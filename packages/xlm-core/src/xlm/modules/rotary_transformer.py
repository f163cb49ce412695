"""The pre-LN transformer with rotary positions that all families share, and its output heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from xlm.modules.chosen import attended_at
from xlm.modules.layers import (
    ShortConvolution,
    check_positive,
    feed_forward,
    head_dim,
    last_and_memory,
    replicate,
    reset_submodules,
    share_rotary,
)
from xlm.modules.position import RotaryEmbedding

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from xlm.modules.attention import KVCache, LayerKVCache
    from xlm.modules.chosen import Chosen
    from xlm.modules.memory import BlockMemory, LayerMemory
    from xlm.modules.packing import Packing

__all__ = [
    "RotaryEmbedding",
    "RotaryTransformerFinalLayer",
    "RotaryTransformerFinalLayerForClassification",
    "RotaryTransformerLayer",
    "RotaryTransformerLayerList",
]


class RotaryTransformerLayer(nn.Module):
    """x + attention(LN x), then x + MLP(LN x), dropout on both; dim_feedforward None is 4 · d_model.

    With short_conv, x is first mixed with its two neighbours (`ShortConvolution`): for bidirectional models only.
    """

    # Queries, keys and values: optimizers that treat a matrix as a whole see three.
    fused_maps: ClassVar[Mapping[str, int]] = {"attn_qkv": 3}

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        force_flash_attn: bool = False,
        short_conv: bool = False,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, nhead=nhead, layer_norm_eps=layer_norm_eps)
        self.nhead = nhead
        self.short_conv = ShortConvolution(d_model) if short_conv else None
        self.force_flash_attn = force_flash_attn
        self.rotary_emb = RotaryEmbedding(head_dim(d_model, nhead))
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.attn_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.mlp = feed_forward(d_model, dim_feedforward, activation)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        reset_submodules(self)

    def forward(
        self,
        inp: Float[Tensor, "batch length d_model"],
        attention_mask: Bool[Tensor, "*mask"] | None,
        positions: Integer[Tensor, "*batch length"] | None = None,
        block_mask: BlockMask | None = None,
        *,
        is_causal: bool = False,
        cache: LayerKVCache | None = None,
        packing: Packing | None = None,
        chosen: Chosen | None = None,
        memory: LayerMemory | None = None,
    ) -> Float[Tensor, "*output d_model"]:
        """attention_mask None, (B, L) or (B, Q, K), True = attend; positions None = 0..L−1.

        is_causal forbids later tokens on top of the mask. With a cache, the mask covers all cached keys too. With a
        packing, input and positions are packed, and the mask is that of the padded rows. With `chosen`, the output has
        one row with these positions only, and the input is that of all positions. With a memory, input and positions
        are those of what its call computes, and the mask is that of whole rows.

        Raises:
            ValueError: with a short convolution, is_causal, a cache or a block mask: it would see what they hide.
        """
        if self.short_conv is not None:
            if is_causal or cache is not None or block_mask is not None:
                raise ValueError("A layer with short_conv looks at both neighbours: no is_causal, cache or block mask.")
            inp = self.short_conv(inp, attention_mask, packing, memory)
        normed = self.norm1(inp)
        attended, inp = attended_at(
            chosen,
            inp,
            normed,
            self.attn_qkv,
            self.nhead,
            self.rotary_emb,
            attention_mask,
            positions,
            packing=packing,
            memory=memory,
            force_flash_attn=self.force_flash_attn,
            block_mask=block_mask,
            is_causal=is_causal,
            cache=cache,
        )
        x = inp + self.dropout(self.o_proj(attended))
        return x + self.dropout(self.mlp(self.norm2(x)))


class RotaryTransformerLayerList(nn.ModuleList):
    """Layers that share one rotary embedding; iterate over it, or call it to run them all."""

    def __init__(
        self, layers: Iterable[RotaryTransformerLayer] = (), rotary_emb: RotaryEmbedding | None = None
    ) -> None:
        super().__init__(layers)
        if rotary_emb is not None:
            share_rotary(self, rotary_emb)

    @classmethod
    def from_layer(
        cls, layer: RotaryTransformerLayer, num_layers: int, rotary_emb: RotaryEmbedding
    ) -> RotaryTransformerLayerList:
        """`layer` and num_layers − 1 of its shape, each with weights of its own."""
        return cls(replicate(layer, num_layers), rotary_emb)

    def forward(
        self,
        inp: Float[Tensor, "batch length d_model"],
        attention_mask: Bool[Tensor, "*mask"] | None,
        positions: Integer[Tensor, "*batch length"] | None = None,
        block_mask: BlockMask | None = None,
        *,
        is_causal: bool = False,
        cache: KVCache | None = None,
        packing: Packing | None = None,
        chosen: Chosen | None = None,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "*output d_model"]:
        """All layers in turn; arguments as for one layer, but cache and memory are those of the whole stack."""
        x = inp
        for i, layer in enumerate(self):
            layer_cache = None if cache is None else cache[i]
            extra = last_and_memory(i, len(self), chosen, memory)
            x = layer(
                x,
                attention_mask,
                positions,
                block_mask,
                is_causal=is_causal,
                cache=layer_cache,
                packing=packing,
                **extra,
            )
        return x


class RotaryTransformerFinalLayer(nn.Module):
    """Hidden vectors to logits: LN (optional), then a linear map without bias."""

    def __init__(
        self,
        d_model: int,
        out_dims: int,
        layer_norm_eps: float = 1e-5,
        use_final_layer_norm: bool = True,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(d_model, eps=layer_norm_eps) if use_final_layer_norm else nn.Identity()
        self.linear = nn.Linear(d_model, out_dims, bias=False)
        if zero_init:
            nn.init.zeros_(self.linear.weight)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch out_dims"]:
        """(…, d_model) to (…, out_dims)."""
        return self.linear(self.norm_final(x))


class RotaryTransformerFinalLayerForClassification(nn.Module):
    """Hidden vectors to class logits: h = LN x, h + MLP(h) (tanh, 2 · d_model inside), then a linear map."""

    def __init__(self, d_model: int, out_dims: int, dropout: float = 0.1, layer_norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.Tanh(), nn.Linear(2 * d_model, d_model))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, out_dims)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch out_dims"]:
        """(…, d_model) to (…, out_dims), for instance of the CLS position alone."""
        h = self.norm_final(x)
        return self.linear(h + self.dropout(self.mlp(h)))

"""The transformer of diffusion families: adaptive layer norm on a condition, usually the noise level (DDiT)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float, Integer, Shaped
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
    from xlm.modules.chosen import Chosen
    from xlm.modules.memory import BlockMemory, LayerMemory
    from xlm.modules.packing import Packing

__all__ = ["DDiTLayer", "DDiTLayerList", "DDitFinalLayer", "RotaryEmbedding", "TimestepEmbedder"]


class TimestepEmbedder(nn.Module):
    """A scalar per example to a vector: sines and cosines of geometric frequencies, then an MLP (arXiv 2212.09748)."""

    MAX_PERIOD = 10000.0

    def __init__(self, hidden: int, frequency_embedding_size: int = 256) -> None:
        super().__init__()
        if frequency_embedding_size % 2:
            raise ValueError(f"frequency_embedding_size must be even, got {frequency_embedding_size}")
        self.frequency_embedding_size = frequency_embedding_size
        self.mlp = nn.Sequential(nn.Linear(frequency_embedding_size, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Shaped[Tensor, "batch"]) -> Float[Tensor, "batch hidden"]:
        """(B,) to (B, hidden); the angles are float32 whatever the weights are."""
        half = self.frequency_embedding_size // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float().unsqueeze(-1) * torch.exp(index * (-math.log(self.MAX_PERIOD) / half))
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


def modulate(
    x: Float[Tensor, "batch length d_model"],
    shift: Float[Tensor, "batch #length d_model"],
    scale: Float[Tensor, "batch #length d_model"],
) -> Float[Tensor, "batch length d_model"]:
    """x · (1 + scale) + shift, the same at every position, or each position's own."""
    return torch.addcmul(shift, x, 1 + scale)


def _at_positions(per_row: Tensor, packing: Packing | None, chosen: Chosen | None = None) -> Tensor:
    """(B, width) as (B, 1, width), for packed rows as (1, T, width), for chosen positions as (1, N, width)."""
    if chosen is not None:
        return chosen.spread(per_row)
    return per_row.unsqueeze(1) if packing is None else packing.spread(per_row)


class DDiTLayer(nn.Module):
    """x + g₁ · attention(modulated LN x), then x + g₂ · MLP(modulated LN x), all modulated by the condition.

    The residual runs on the un-normalised stream. The modulation starts at zero, so a new layer is the identity
    (adaLN-zero). With short_conv, x is first mixed with its two neighbours (`ShortConvolution`).
    """

    # Queries, keys and values; a shift, a scale and a gate for each half. Six maps of the condition share one matrix to
    # save calls, and serve different places: an update of one says nothing about the size of another's.
    fused_maps: ClassVar[Mapping[str, int]] = {"attn_qkv": 3, "adaln_modulation": 6}

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        layer_norm_eps: float = 1e-5,
        d_cond: int = 128,
        force_flash_attn: bool = False,
        short_conv: bool = False,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, nhead=nhead, layer_norm_eps=layer_norm_eps)
        self.nhead = nhead
        self.short_conv = ShortConvolution(d_model) if short_conv else None
        self.force_flash_attn = force_flash_attn
        self.rotary_emb = RotaryEmbedding(head_dim(d_model, nhead))
        # The condition brings scale and shift, so the norms have none of their own.
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps, elementwise_affine=False)
        self.attn_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps, elementwise_affine=False)
        self.mlp = feed_forward(d_model, dim_feedforward, activation)
        self.dropout = nn.Dropout(dropout)
        self.adaln_modulation = nn.Linear(d_cond, 6 * d_model)
        _zero(self.adaln_modulation)

    def reset_parameters(self) -> None:
        """Draw new weights; the modulation is zero again."""
        reset_submodules(self)
        _zero(self.adaln_modulation)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        c: Float[Tensor, "batch d_cond"],
        attention_mask: Bool[Tensor, "*mask"] | None,
        positions: Integer[Tensor, "*batch length"] | None = None,
        packing: Packing | None = None,
        chosen: Chosen | None = None,
        memory: LayerMemory | None = None,
    ) -> Float[Tensor, "*output d_model"]:
        """attention_mask None, (B, L) or (B, Q, K), True = attend; positions None = 0..L−1.

        With a packing, x and positions are packed, and the mask is that of the padded rows. With `chosen`, the output
        has one row with these positions only. With a memory, x and positions are those of what its call computes.
        """
        if self.short_conv is not None:
            x = self.short_conv(x, attention_mask, packing, memory)
        computed = None if memory is None else memory.call.active
        modulation, attention_width = self.adaln_modulation(c), 2 * x.shape[-1]
        shift1, scale1 = _at_positions(modulation[:, :attention_width], packing, computed).chunk(2, dim=-1)
        normed = modulate(self.norm1(x), shift1, scale1)
        attended, x = attended_at(
            chosen,
            x,
            normed,
            self.attn_qkv,
            self.nhead,
            self.rotary_emb,
            attention_mask,
            positions,
            packing=packing,
            memory=memory,
            force_flash_attn=self.force_flash_attn,
        )
        rest = _at_positions(modulation[:, attention_width:], packing, computed if chosen is None else chosen)
        gate1, shift2, scale2, gate2 = rest.chunk(4, dim=-1)
        x = torch.addcmul(x, gate1, self.dropout(self.o_proj(attended)))
        fed = self.dropout(self.mlp(modulate(self.norm2(x), shift2, scale2)))
        return torch.addcmul(x, gate2, fed)


class DDiTLayerList(nn.ModuleList):
    """Layers that share one rotary embedding; iterate over it, or call it to run them all."""

    def __init__(self, layers: Iterable[DDiTLayer] = (), rotary_emb: RotaryEmbedding | None = None) -> None:
        super().__init__(layers)
        if rotary_emb is not None:
            share_rotary(self, rotary_emb)

    @classmethod
    def from_layer(cls, layer: DDiTLayer, num_layers: int, rotary_emb: RotaryEmbedding) -> DDiTLayerList:
        """`layer` and num_layers − 1 of its shape, each with weights of its own."""
        return cls(replicate(layer, num_layers), rotary_emb)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        c: Float[Tensor, "batch d_cond"],
        attention_mask: Bool[Tensor, "*mask"] | None,
        positions: Integer[Tensor, "*batch length"] | None = None,
        packing: Packing | None = None,
        chosen: Chosen | None = None,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "*output d_model"]:
        """All layers in turn; arguments as for one layer, but the memory is that of the whole stack."""
        for i, layer in enumerate(self):
            extra = last_and_memory(i, len(self), chosen, memory)
            x = layer(x, c, attention_mask, positions, packing, **extra)
        return x


class DDitFinalLayer(nn.Module):
    """Hidden vectors to logits: LN modulated by the condition, then a linear map; both start at zero."""

    fused_maps: ClassVar[Mapping[str, int]] = {"adaln_modulation": 2}  # a shift and a scale

    def __init__(self, d_model: int, out_dims: int, d_cond: int, layer_norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(d_model, eps=layer_norm_eps, elementwise_affine=False)
        self.linear = nn.Linear(d_model, out_dims)
        self.adaln_modulation = nn.Linear(d_cond, 2 * d_model)
        _zero(self.linear)
        _zero(self.adaln_modulation)

    def hidden(
        self,
        x: Float[Tensor, "batch length d_model"],
        c: Float[Tensor, "batch d_cond"],
        packing: Packing | None = None,
        chosen: Chosen | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """What the linear map reads, for a loss that runs it on some rows only.

        With a packing, x is packed; with `chosen`, x is that of these positions.
        """
        shift, scale = _at_positions(self.adaln_modulation(c), packing, chosen).chunk(2, dim=-1)
        return modulate(self.norm_final(x), shift, scale)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], c: Float[Tensor, "batch d_cond"]
    ) -> Float[Tensor, "batch length out_dims"]:
        """(B, L, d_model) and (B, d_cond) to (B, L, out_dims)."""
        return self.linear(self.hidden(x, c))


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)

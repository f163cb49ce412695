"""The positions whose output is read: the last layer of a network computes no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor, nn

from xlm.modules.attention import attention, rotary_self_attention
from xlm.modules.packing import Packing, take

if TYPE_CHECKING:
    from xlm.modules.memory import LayerMemory
    from xlm.modules.position import RotaryEmbedding

# From this share of a row on, computing the queries of single positions saves less than gathering them costs.
_MOST_QUERIES = 0.75
# … and below so many positions of a batch, its calls cost more than they save.
_FEWEST_POSITIONS = 256


@dataclass(frozen=True, eq=False)
class Chosen:
    """N positions of a batch (B, L), in reading order.

    Args:
        index: (N,), flat positions in B · L, ascending.
        length: L.
        most: the largest number of them in one row; None if finding it would wait for a device.
    """

    index: Integer[Tensor, " chosen"]
    length: int
    most: int | None = None

    @classmethod
    def of(cls, index: Integer[Tensor, " chosen"], length: int, is_counted: bool = False) -> Chosen:
        """The choice of these positions; `most` is counted on the CPU only, unless `is_counted`."""
        if not is_counted and (index.device.type != "cpu" or torch.compiler.is_compiling()):
            return cls(index, length)
        return cls(index, length, int(torch.bincount(index // length).max()) if len(index) else 0)

    @property
    def rows(self) -> Integer[Tensor, " chosen"]:
        """The row of each position."""
        return self.index // self.length

    def pick(
        self, x: Shaped[Tensor, "batch length *rest"], packing: Packing | None = None
    ) -> Shaped[Tensor, "1 chosen *rest"]:
        """Entries of the batch, or of its packed tokens, at the positions."""
        index = self.index if packing is None else torch.searchsorted(packing.index, self.index)
        return take(x.flatten(0, 1), 0, index).unsqueeze(0)

    def spread(self, per_row: Float[Tensor, "batch width"]) -> Float[Tensor, "1 chosen width"]:
        """What belongs to a row, at each of its positions."""
        return per_row.index_select(0, self.rows).unsqueeze(0)

    def put(self, chosen: Float[Tensor, "chosen width"], num_rows: int) -> Float[Tensor, "batch length width"]:
        """The batch with these vectors at the positions, and zeros elsewhere."""
        flat = chosen.new_zeros(num_rows * self.length, chosen.shape[-1])
        return flat.index_copy(0, self.index, chosen).unflatten(0, (num_rows, self.length))

    def has_few_queries(self, num_rows: int, attention_mask: Tensor | None) -> bool:
        """Whether attention should run for these queries alone: the mask must be the same for all queries of a row."""
        is_per_key = attention_mask is None or attention_mask.ndim == 2
        is_large = num_rows * self.length >= _FEWEST_POSITIONS
        return is_per_key and is_large and self.most is not None and 0 < self.most <= _MOST_QUERIES * self.length

    def attention(
        self,
        x: Float[Tensor, "batch length d_model"],
        project: nn.Linear,
        nhead: int,
        rotary_emb: RotaryEmbedding,
        attention_mask: Bool[Tensor, "batch length"] | None,
        positions: Integer[Tensor, "*batch length"] | None,
    ) -> Float[Tensor, "1 chosen d_model"]:
        """Self-attention whose queries are the positions, and whose keys are all tokens of their rows.

        Args:
            x: what `project` reads.
            project: the fused map to queries, keys and values, without bias.
            nhead, rotary_emb, attention_mask, positions: as for `rotary_self_attention`.
        """
        width = x.shape[-1]
        keys, values = F.linear(x, project.weight[width:]).unflatten(-1, (2 * nhead, -1)).transpose(1, 2).chunk(2, 1)
        queries = F.linear(self.pick(x), project.weight[:width]).unflatten(-1, (nhead, -1)).transpose(1, 2)
        queries = rotary_emb(queries, self.positions(positions, len(x)))
        return self.attend(queries, rotary_emb(keys, positions), values, attention_mask)

    def positions(
        self, of_batch: Integer[Tensor, "*batch length"] | None, num_rows: int
    ) -> Integer[Tensor, "1 chosen"]:
        """The positions' places in their rows, as rotary embeddings count them; None counts columns from 0."""
        if of_batch is None:
            return (self.index % self.length).unsqueeze(0)
        return of_batch.expand(num_rows, -1).reshape(-1)[self.index].unsqueeze(0)

    def attend(
        self,
        queries: Float[Tensor, "1 heads chosen dim"],
        keys: Float[Tensor, "batch heads length dim"],
        values: Float[Tensor, "batch heads length dim"],
        attention_mask: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "1 chosen d_model"]:
        """Attention of these queries, each over the keys of its own row."""
        assert self.most is not None
        num_rows, nhead, rows = len(keys), keys.shape[1], self.rows
        flat = queries.transpose(1, 2).flatten(2).squeeze(0)
        place = None
        if len(rows) < num_rows * self.most:
            # Row by row, each with room for as many queries as the row that has most.
            place = rows * self.most + torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
            flat = flat.new_zeros(num_rows * self.most, flat.shape[-1]).index_copy(0, place, flat)
        grid = flat.view(num_rows, self.most, nhead, -1).transpose(1, 2)
        out = attention(grid, keys, values, attention_mask).transpose(1, 2).flatten(2).flatten(0, 1)
        return (out if place is None else take(out, 0, place)).unsqueeze(0)


def attended_at(
    chosen: Chosen | None,
    x: Float[Tensor, "batch length d_model"],
    normed: Float[Tensor, "batch length d_model"],
    project: nn.Linear,
    nhead: int,
    rotary_emb: RotaryEmbedding,
    attention_mask: Bool[Tensor, "*mask"] | None,
    positions: Integer[Tensor, "*batch length"] | None,
    *,
    packing: Packing | None = None,
    memory: LayerMemory | None = None,
    force_flash_attn: bool = False,
    **options: Any,
) -> tuple[Float[Tensor, "*output d_model"], Float[Tensor, "*output d_model"]]:
    """The self-attention of a layer and its residual input x, both at the chosen positions; None for all.

    Args:
        normed: what `project`, the fused map to queries, keys and values, reads.
        memory: of keys and values from earlier calls; x and the result are those of the positions it computes then.
        options: `is_causal`, `cache` and `block_mask` of `rotary_self_attention`, as all other arguments.
    """
    if memory is not None:
        return memory.attended(chosen, x, normed, project, nhead, rotary_emb, attention_mask, positions)
    is_plain = packing is None and not any(option is not None and option is not False for option in options.values())
    if chosen is not None and is_plain and chosen.has_few_queries(len(x), attention_mask):
        out = chosen.attention(normed, project, nhead, rotary_emb, attention_mask, positions)
        return out, chosen.pick(x)
    options |= {"force_flash_attn": force_flash_attn, "packing": packing}
    out = rotary_self_attention(project(normed), nhead, rotary_emb, attention_mask, positions, **options)
    return (out, x) if chosen is None else (chosen.pick(out, packing), chosen.pick(x, packing))


def features_at(
    features: Callable[..., Tensor],
    network: Any,
    input_ids: Integer[Tensor, "batch length"],
    attention_mask: Bool[Tensor, "batch length"] | None,
    chosen: Chosen,
    **condition: Any,
) -> Float[Tensor, "chosen d_model"]:
    """What a network's output layer reads at chosen positions.

    Args:
        features: the network's method, (B, L, D) from ids and mask; of a network with `chooses`, (N, D) with `chosen`.
        network: says by `chooses` whether its last layer can leave out the other positions.
        input_ids, attention_mask, condition: for `features`.
        chosen: the positions.
    """
    if getattr(network, "chooses", False):
        return features(input_ids, attention_mask, chosen=chosen, **condition)
    dense = features(input_ids, attention_mask, **condition)
    return dense.reshape(-1, dense.shape[-1])[chosen.index]

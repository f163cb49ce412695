"""Keys and values of earlier network calls: a call computes some positions of its rows, and attends to all.

For networks that look in both directions this is exact while nothing has changed but the computed positions and the
network has one layer; otherwise the kept keys and values are those of the earlier text (Fast-dLLM, arXiv 2505.22618).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor, nn

from xlm.modules.attention import attention

if TYPE_CHECKING:
    from xlm.modules.chosen import Chosen
    from xlm.modules.position import RotaryEmbedding


@dataclass(eq=False)
class _Stored:
    """(B, L, …) of one layer, made by the first call that writes it."""

    values: Tensor | None = None

    def write(self, new: Tensor, call: BlockMemory) -> Tensor:
        """Store what a call computed, (R, L, …) or (1, N, …); returns the rows of the call, whole."""
        if call.active is None and call.rows is None:
            self.values = new.contiguous()
            return self.values
        if self.values is None:
            self.values = new.new_zeros(call.num_rows, *new.shape[1:])
        if call.active is None:
            self.values[call.rows] = new
            return new
        self.values.view(-1, *new.shape[2:]).index_copy_(0, call.stored_index, new.squeeze(0))
        return self.values if call.rows is None else self.values.index_select(0, call.rows)


@dataclass(eq=False)
class LayerMemory:
    """What one layer keeps: rotated keys and values, and its input where it mixes neighbours."""

    call: BlockMemory
    keys: _Stored = field(default_factory=_Stored)
    values: _Stored = field(default_factory=_Stored)
    inputs: _Stored = field(default_factory=_Stored)

    def attended(
        self,
        chosen: Chosen | None,
        x: Float[Tensor, "rows computed d_model"],
        normed: Float[Tensor, "rows computed d_model"],
        project: nn.Linear,
        nhead: int,
        rotary_emb: RotaryEmbedding,
        attention_mask: Bool[Tensor, "batch length"] | None,
        positions: Integer[Tensor, "*rows computed"] | None,
    ) -> tuple[Float[Tensor, "*output d_model"], Float[Tensor, "*output d_model"]]:
        """The self-attention of a layer and its residual input x, both at the chosen positions; None for all computed.

        Args:
            x, normed, positions: of what the call computes, (R, L, …) or (1, N, …); positions None = 0..L−1 of all.
            chosen: some of them, as positions of (R, L).
            attention_mask: of the whole rows.
            project, nhead, rotary_emb: as for `rotary_self_attention`.
        """
        width, active = x.shape[-1], self.call.active
        # Without chosen positions, queries are those of all that is computed.
        first = width if chosen is not None else 0
        computed = F.linear(normed, project.weight[first:]).unflatten(-1, (-1, width // nhead))
        rotated, values = computed.split((computed.shape[2] - nhead, nhead), 2)
        rotated = rotary_emb(rotated.transpose(1, 2), positions)
        keys = self.keys.write(rotated[:, -nhead:].transpose(1, 2), self.call).transpose(1, 2)
        values = self.values.write(values, self.call).transpose(1, 2)
        if chosen is not None:
            queries = F.linear(self.call.pick(normed, chosen), project.weight[:width]).unflatten(-1, (nhead, -1))
            if active is None or positions is None:
                at = chosen.positions(positions, len(x))
            else:
                at = self.call.pick(positions, chosen)
            out = chosen.attend(rotary_emb(queries.transpose(1, 2), at), keys, values, attention_mask)
            return out, self.call.pick(x, chosen)
        if active is not None:
            return active.attend(rotated[:, :nhead], keys, values, attention_mask), x
        return attention(rotated[:, :nhead], keys, values, attention_mask).transpose(1, 2).flatten(2), x

    def whole_inputs(self, x: Float[Tensor, "rows computed d_model"]) -> Float[Tensor, "rows length d_model"]:
        """The layer's inputs of the call's rows, with those of earlier calls where this one computes none."""
        return self.inputs.write(x, self.call)


class BlockMemory:
    """The memory of a stack of layers for B rows of L tokens, and what the coming call computes.

    Args:
        num_rows: B.
        num_layers: of the stack.
    """

    def __init__(self, num_rows: int, num_layers: int) -> None:
        self.num_rows = num_rows
        self.rows: Integer[Tensor, " rows"] | None = None
        self.active: Chosen | None = None
        self.layers = [LayerMemory(self) for _ in range(num_layers)]

    def __getitem__(self, layer: int) -> LayerMemory:
        return self.layers[layer]

    def next_call(self, rows: Integer[Tensor, " rows"], active: Chosen | None) -> BlockMemory:
        """Announce a call.

        Args:
            rows: its rows, R of the B, ascending.
            active: positions of (R, L) that it computes, with `most`; None for all, which replaces what is stored.
        """
        self.rows = None if len(rows) == self.num_rows else rows
        self.active = active
        if active is not None:
            length = active.length
            self.stored_index = (
                active.index if self.rows is None else rows[active.rows] * length + active.index % length
            )
        return self

    def computed(
        self, input_ids: Integer[Tensor, "batch length"], positions: Integer[Tensor, "*batch length"] | None
    ) -> tuple[Integer[Tensor, "rows computed"], Integer[Tensor, "*rows computed"] | None]:
        """Ids and positions of what the call computes; positions None = 0..L−1 of every row."""
        if self.active is None:
            return input_ids, positions
        return self.active.pick(input_ids), self.active.positions(positions, len(input_ids))

    def pick(self, x: Shaped[Tensor, "rows computed *rest"], chosen: Chosen) -> Shaped[Tensor, "1 chosen *rest"]:
        """Of what the call computes, the entries at some positions."""
        if self.active is None:
            return chosen.pick(x)
        return x.index_select(1, torch.searchsorted(self.active.index, chosen.index))

"""Network calls that compute one block of a text, with keys and values of the rest from an earlier call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.modules.chosen import Chosen
from xlm.modules.memory import BlockMemory

Cache = Literal["none", "prefix", "dual"]


class CachedCalls:
    """`MaskedNetwork.features` with a cache (Fast-dLLM, arXiv 2505.22618).

    Each row's first call for a block computes the whole row, and so does one in `refresh_interval` calls after it; the
    others compute the block ("dual"), or the block and all that follows ("prefix"). What a row gets doesn't depend on
    the rows beside it.

    Args:
        run: (ids (R, L), rows (R,), mask_prob (R,), chosen, memory) → (N, D), the network.
        blocks: (B, L), the number of each position's block, −1 for what is computed by whole calls only.
        kind: "prefix" or "dual".
        refresh_interval: with 1 every call computes the whole row; None: once for each block.
        num_layers: of the network.
    """

    def __init__(
        self,
        run: Callable[..., Tensor],
        blocks: Integer[Tensor, "batch length"],
        kind: Cache,
        refresh_interval: int | None,
        num_layers: int,
    ) -> None:
        self.run, self.blocks, self.kind = run, blocks, kind
        self.interval = refresh_interval
        self.memory = BlockMemory(len(blocks), num_layers)
        # Of each row: the blocks for which it was computed as a whole, and its calls since then, that one included.
        self.computed_for = blocks.new_full((len(blocks), 2), -1)
        self.calls = blocks.new_zeros(len(blocks))

    def __call__(
        self,
        ids: Integer[Tensor, "rows length"],
        rows: Integer[Tensor, " rows"],
        mask_prob: Float[Tensor, " rows"],
        index: Integer[Tensor, " chosen"],
    ) -> Float[Tensor, "chosen d_model"]:
        """What the output layer reads at these flat positions; see `MaskedNetwork`."""
        length = ids.shape[1]
        row = index // length
        wanted = self.blocks[rows].flatten()[index]
        window = torch.stack(
            [
                wanted.new_full((len(rows),), length).scatter_reduce(0, row, wanted, "amin"),
                wanted.new_full((len(rows),), -1).scatter_reduce(0, row, wanted, "amax"),
            ],
            dim=1,
        )
        is_due = (window != self.computed_for[rows]).any(dim=1)
        if self.interval is not None:
            is_due |= self.calls[rows] >= self.interval
        self.computed_for[rows] = window
        self.calls[rows] = torch.where(is_due, 0, self.calls[rows]) + 1
        parts = [(part, is_whole) for part, is_whole in ((is_due, True), (~is_due, False)) if bool(part.any())]
        if len(parts) == 1:
            return self._call(ids, rows, mask_prob, index, None if parts[0][1] else window)
        found: list[Tensor] = []
        places: list[Tensor] = []
        for part, is_whole in parts:
            places.append(part[row].nonzero().squeeze(1))
            # Positions in the batch of these rows alone.
            own = (part.long().cumsum(0) - 1)[row[places[-1]]] * length + index[places[-1]] % length
            found.append(self._call(ids[part], rows[part], mask_prob[part], own, None if is_whole else window[part]))
        return torch.cat(found)[torch.cat(places).argsort()]

    def _call(self, ids: Tensor, rows: Tensor, mask_prob: Tensor, index: Tensor, window: Tensor | None) -> Tensor:
        """One pass; with the window of each row, of it alone."""
        length = ids.shape[1]
        active = None
        if window is not None:
            in_window: Bool[Tensor, "rows length"] = self.blocks[rows] >= window[:, :1]
            if self.kind == "dual":
                in_window &= self.blocks[rows] <= window[:, 1:]
            active = Chosen.of(in_window.flatten().nonzero().squeeze(1), length, is_counted=True)
        chosen = Chosen.of(index, length, is_counted=True)
        # Compiled blocks (`compile=blocks`) would be compiled anew for many of these shapes.
        with torch.compiler.set_stance("force_eager"):
            return self.run(ids, rows, mask_prob, chosen, memory=self.memory.next_call(rows, active))

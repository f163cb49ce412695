"""The rows that a predictor works on: their tokens and gaps, and the insertion of tokens into them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Integer
from torch import Tensor

from ilm.types_ilm import REST_TYPE, ILMPredictionBatch


@dataclass(frozen=True)
class Rows:
    """R rows of W columns; `index` says which row of the batch each one is."""

    index: Integer[Tensor, " rows"]
    ids: Integer[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]
    is_open: Bool[Tensor, "rows length"]
    types: Integer[Tensor, "rows length"]
    # Step at which a token appeared; 0 for given ones, -1 for padding.
    order: Integer[Tensor, "rows length"]
    cls_position: Integer[Tensor, " rows"]

    @classmethod
    def of(cls, batch: ILMPredictionBatch) -> Rows:
        """The rows of a batch, all of them."""
        mask = batch["attention_mask"].bool()
        return cls(
            index=torch.arange(len(mask), device=mask.device),
            ids=batch["input_ids"],
            mask=mask,
            is_open=mask & ~batch["constraint"].bool(),
            types=batch["token_type_ids"],
            order=mask.long() - 1,
            cls_position=batch["cls_position"],
        )

    def select(self, keep: Bool[Tensor, " rows"] | Integer[Tensor, " kept"]) -> Rows:
        """Some of the rows, by a mask or by their indices."""
        # Once for all fields: indexing by a mask waits for the device.
        index = keep.nonzero().squeeze(1) if keep.dtype == torch.bool else keep
        return Rows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def insert(
        self, slots: Integer[Tensor, "rows num"], tokens: Integer[Tensor, "rows num"], step: int, pad_token_id: int
    ) -> Rows:
        """Put each token right of its column; later columns move on, −1 inserts nothing."""
        R, W = self.ids.shape
        num = slots.shape[1]
        valid = slots >= 0
        marks = torch.zeros_like(self.ids).scatter_add_(1, slots.clamp(min=0), valid.long())
        shift = marks.cumsum(dim=1) - marks
        columns = torch.arange(W + num, device=self.ids.device)
        # Where each new column comes from: an old one, an insertion (from W on), or padding (W + num). What isn't
        # inserted goes into one column too many, which is cut off.
        source = torch.full((R, W + num + 1), W + num, dtype=torch.long, device=self.ids.device)
        source.scatter_(1, columns[:W] + shift, columns[:W].expand(R, -1))
        new_to = torch.where(valid, slots + 1 + shift.gather(1, slots.clamp(min=0)), W + num)
        source = source.scatter_(1, new_to, columns[W:].expand(R, -1))[:, :-1]

        def moved(old: Tensor, filler: int | bool, new: Tensor | int | bool) -> Tensor:
            new = new if isinstance(new, Tensor) else old.new_full((R, num), new)
            return torch.cat([old, new, old.new_full((R, 1), filler)], dim=1).gather(1, source)

        mask = moved(self.mask, False, True)
        used = int((mask.any(dim=0) * (columns + 1)).max())
        grown = replace(
            self,
            ids=moved(self.ids, pad_token_id, tokens),
            mask=mask,
            is_open=moved(self.is_open, False, True),
            types=moved(self.types, REST_TYPE, REST_TYPE),
            order=moved(self.order, -1, step),
        )
        return grown.cut(used)

    def cut(self, width: int) -> Rows:
        """The first columns, or more of them, empty."""
        missing = width - self.ids.shape[1]
        if missing == 0:
            return self
        if missing < 0:
            names = ("ids", "mask", "is_open", "types", "order")
            return replace(self, **{name: getattr(self, name)[:, :width] for name in names})
        fillers = {"ids": 0, "mask": False, "is_open": False, "types": REST_TYPE, "order": -1}
        changed = {name: F.pad(getattr(self, name), (0, missing), value=filler) for name, filler in fillers.items()}
        return replace(self, **changed)


def joined(parts: list[Rows], pad_token_id: int) -> Rows:
    """All rows of the parts in the order of the batch, as wide as the widest."""
    width = max(part.ids.shape[1] for part in parts)
    parts = [part.cut(width) for part in parts]
    whole = Rows(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Rows)})
    whole = whole.select(whole.index.argsort())
    return replace(whole, ids=whole.ids.masked_fill(~whole.mask, pad_token_id))

"""Blocks that begin at other tokens in every epoch, so that no two tokens are always apart.

Documents are split, or joined and cut, into blocks of `size` tokens, of which the last has the rest. In each epoch, all
blocks of a document (or of a group of joined documents) begin `offset` tokens earlier, and `offset` is at most what the
last block has room for. So their number stays, every token is in exactly one of them, and only the first and the last
have other lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from xlm.data.fitting import TEXT, SplitRows, shifts
from xlm.data.rows import Ints, Rows
from xlm.errors import DataError


class Shiftable(Protocol):
    """Rows that are consecutive blocks of documents."""

    def __len__(self) -> int: ...

    def fetch_shifted(self, indices: Sequence[int], seed: int, epoch: int) -> list[dict[str, Any]]: ...

    def most_lengths(self, column: str) -> Ints | None:
        """The largest length of each row in any epoch."""
        ...


class ShiftedRows:
    """The rows of an epoch; `fetch` and `lengths` are those of `Rows`, for epoch 0 and for all of them."""

    def __init__(self, blocks: Shiftable, seed: int) -> None:
        self._blocks, self._seed = blocks, seed

    def __len__(self) -> int:
        return len(self._blocks)

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self.fetch_of(0, indices)

    def fetch_of(self, epoch: int, indices: Sequence[int]) -> list[dict[str, Any]]:
        """These rows as they are in an epoch, a pure function of seed and epoch."""
        return self._blocks.fetch_shifted(indices, self._seed, epoch)

    def lengths(self, column: str) -> Ints | None:
        """Upper bounds."""
        return self._blocks.most_lengths(column)


class JoinedBlocks:
    """Blocks of joined documents (`pack_sequences`); a short block ends a group."""

    def __init__(self, rows: Rows, lengths: Ints) -> None:
        self._rows, self._size = rows, int(lengths.max())
        short = np.flatnonzero(lengths < self._size)
        ends = short if len(short) and short[-1] == len(lengths) - 1 else np.append(short, len(lengths) - 1)
        self._starts = np.append(0, ends[:-1] + 1)
        self._room = self._size - lengths[ends]

    def __len__(self) -> int:
        return len(self._rows)

    def fetch_shifted(self, indices: Sequence[int], seed: int, epoch: int) -> list[dict[str, Any]]:
        wanted = np.asarray(indices, dtype=np.int64)
        group = np.searchsorted(self._starts, wanted, side="right") - 1
        offsets = shifts(self._room[group], group, seed, epoch)
        # The tokens before a block's own are the last ones of the block before it, unless it is the first of its group.
        takes = (offsets > 0) & (wanted > self._starts[group])
        fetched = self._rows.fetch([*indices, *(wanted[takes] - 1).tolist()])
        rows, before = fetched[: len(indices)], iter(fetched[len(indices) :])
        for row, offset, is_joined in zip(rows, offsets.tolist(), takes.tolist(), strict=True):
            own = row[TEXT][: self._size - offset]
            row[TEXT] = next(before)[TEXT][self._size - offset :] + own if is_joined else own
        return rows

    def most_lengths(self, column: str) -> Ints | None:
        found = self._rows.lengths(column)
        return None if found is None else np.full_like(found, self._size) if column == TEXT else found


def shifted(rows: Rows, seed: int, are_joined: bool, name: str) -> Rows:
    """The rows with blocks that begin elsewhere in every epoch.

    Args:
        are_joined: whether a group processor made them.
        name: `split.name` of the data set, for messages.

    Raises:
        DataError: a group processor made something else than `input_ids`.
    """
    if isinstance(rows, SplitRows):
        return ShiftedRows(rows, seed)
    if not are_joined or not len(rows):
        return rows  # no text is longer than its block
    columns = sorted(rows.fetch([0])[0])
    lengths = rows.lengths(TEXT)
    if columns != [TEXT] or lengths is None:
        raise DataError(
            f"{name}: shift_blocks=true is for blocks that have only input_ids, as pack_sequences makes them; "
            f"these have {', '.join(columns)}."
        )
    return ShiftedRows(JoinedBlocks(rows, lengths), seed)


def fetch_of_epoch(rows: Rows, epoch: int, indices: Sequence[int]) -> list[dict[str, Any]]:
    """These rows as they are in an epoch of training."""
    return rows.fetch_of(epoch, indices) if isinstance(rows, ShiftedRows) else rows.fetch(indices)

"""Examples longer than their block are refused, cut, dropped or split, by one rule before batching.

Lengths come from the cache, so one cache serves every block size and every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm.data.collate import Limit, truncate_ids
from xlm.data.functional import NUM_BYTES
from xlm.data.hashing import noise_seeds
from xlm.data.rows import ArrowRows, Ints, Rows
from xlm.errors import DataError

POLICIES = ("error", "truncate", "drop", "split")
TEXT, PROMPT = "input_ids", "prompt_ids"
SETTING = {TEXT: "block_size", PROMPT: "input_block_size"}


@dataclass(frozen=True)
class TooLong:
    """The rows in which `column` is longer than `limit`, in order, and their lengths."""

    column: str
    limit: Limit
    rows: Ints
    lengths: Ints


class TruncatedRows:
    """Rows in which columns longer than a number of tokens are cut: prompts lose their start, texts their end."""

    def __init__(self, rows: Rows, limits: Mapping[str, int]) -> None:
        self._rows, self._limits = rows, dict(limits)

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = self._rows.fetch(indices)
        for row in rows:
            for column, limit in self._limits.items():
                if len(row[column]) > limit:
                    row[column] = truncate_ids(row[column], limit, "left" if column == PROMPT else "right")
                    forget_bytes(row)
        return rows

    def lengths(self, column: str) -> Ints | None:
        found = self._rows.lengths(column)
        return found if found is None or column not in self._limits else np.minimum(found, self._limits[column])


class RemainingRows:
    """Rows without the indices in `dropped`, which is sorted."""

    def __init__(self, rows: Rows, dropped: Ints) -> None:
        self._rows = rows
        self._num_dropped = len(dropped)
        self._dropped = dropped
        # The number of rows kept before each dropped one.
        self._before = dropped - np.arange(len(dropped))

    def __len__(self) -> int:
        return len(self._rows) - self._num_dropped

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        wanted = np.asarray(indices, dtype=np.int64)
        return self._rows.fetch((wanted + np.searchsorted(self._before, wanted, side="right")).tolist())

    def lengths(self, column: str) -> Ints | None:
        found = self._rows.lengths(column)
        return None if found is None else np.delete(found, self._dropped)


class SplitRows:
    """Rows in which a long text becomes several consecutive pieces of at most `limit` tokens."""

    def __init__(self, rows: Rows, long: TooLong) -> None:
        self._rows, self._limit = rows, long.limit.tokens
        self._long, self._lengths = long.rows, long.lengths
        self._pieces = -(-long.lengths // self._limit)
        # Rows added by the pieces up to and including each long row, and the new index at which each long row starts.
        self._added = np.cumsum(self._pieces - 1)
        self._starts = self._long + self._added - (self._pieces - 1)

    def __len__(self) -> int:
        return len(self._rows) + int(self._added[-1])

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self._fetch(indices)

    def fetch_shifted(self, indices: Sequence[int], seed: int, epoch: int) -> list[dict[str, Any]]:
        """The rows of an epoch in which the pieces begin elsewhere: see `xlm.data.shifting`."""
        return self._fetch(indices, (seed, epoch))

    def _fetch(self, indices: Sequence[int], shift: tuple[int, int] | None = None) -> list[dict[str, Any]]:
        wanted = np.asarray(indices, dtype=np.int64)
        # The last long row that starts at or before each index; the first one where there is none.
        last = np.maximum(np.searchsorted(self._starts, wanted, side="right") - 1, 0)
        piece = wanted - self._starts[last]
        is_piece = (piece >= 0) & (piece < self._pieces[last])
        numbers = np.where(is_piece, self._long[last], np.where(piece < 0, wanted, wanted - self._added[last]))
        rows = self._rows.fetch(numbers.tolist())
        starts = piece * self._limit
        if shift is not None:
            starts -= shifts(self._pieces[last] * self._limit - self._lengths[last], self._long[last], *shift)
        for row, start, is_part in zip(rows, starts.tolist(), is_piece.tolist(), strict=True):
            if is_part:
                row[TEXT] = row[TEXT][max(start, 0) : start + self._limit]
                forget_bytes(row)
        return rows

    def lengths(self, column: str) -> Ints | None:
        found = self._rows.lengths(column)
        if found is None:
            return None
        pieces = np.ones(len(found), dtype=np.int64)
        pieces[self._long] = self._pieces
        ends = np.cumsum(pieces)
        split = np.repeat(found, pieces)
        if column == TEXT:
            number = np.arange(len(split)) - np.repeat(ends - pieces, pieces)
            split = np.minimum(
                split - number * self._limit, np.where(np.repeat(pieces, pieces) > 1, self._limit, split)
            )
        return split

    def most_lengths(self, column: str) -> Ints | None:
        """The largest length of each row, wherever its pieces begin."""
        found = self.lengths(column)
        if found is None or column != TEXT:
            return found
        ends = self._starts + self._pieces - 1
        found[ends] = self._limit
        return found


def shifts(room: Ints, document: Ints, seed: int, epoch: int) -> Ints:
    """The offset of each document's pieces in an epoch, uniform from 0 to `room`."""
    return noise_seeds(seed, epoch, document) % (room + 1)


def forget_bytes(row: dict[str, Any]) -> None:
    """Mark the number of bytes of a row that was cut as unknown."""
    if NUM_BYTES in row:
        row[NUM_BYTES] = None  # known for the whole text only


def limits_of(collator: Any, columns: Sequence[str], made_on_the_fly: bool) -> dict[str, Limit]:
    """The limits that a collator sets for the columns of its rows.

    For a collator without `token_limits()`: `block_size` tokens of a text and `input_block_size` of a prompt.
    A prompt that is made from a text on the fly is as long as the text.
    """
    if hasattr(collator, "token_limits"):
        limits: dict[str, Limit] = dict(collator.token_limits())
    else:
        sizes = {column: getattr(collator, name, None) for column, name in SETTING.items()}
        limits = {column: Limit(size, None) for column, size in sizes.items() if isinstance(size, int)}
    if made_on_the_fly and PROMPT in limits and PROMPT not in columns:
        limits.setdefault(TEXT, limits.pop(PROMPT))
    return {column: limit for column, limit in limits.items() if column in columns}


def fitted(
    rows: ArrowRows, limits: Mapping[str, Limit], policy: str | None, name: str, where: Callable[[int], str]
) -> tuple[Rows, list[str]]:
    """The rows that a run uses, and messages about what was changed.

    Args:
        limits: from `limits_of`.
        policy: one of POLICIES. None: an error where the collator would raise one; otherwise the collator truncates.
        name: `split.name` of the data set, as in the names of its settings.
        where: describes the place of a row, given its index.

    Raises:
        DataError: rows are too long and may not be; or no row is left; or prompts would be split.
    """
    if policy == "split" and PROMPT in rows.column_names:
        raise DataError(f"{name}: too_long=split is for texts without prompts. Choose truncate, drop or error.")
    said = _empty(rows, name)
    found = [TooLong(column, limit, *rows.longer_than(column, limit.tokens)) for column, limit in limits.items()]
    found = [long for long in found if len(long.rows)]
    if not found:
        return rows, said
    refused = [long for long in found if policy == "error" or (policy is None and long.limit.truncate == "error")]
    if refused:
        raise DataError(_refusal(refused[0], len(rows), name, where))
    if policy == "drop":
        dropped = np.unique(np.concatenate([long.rows for long in found]))
        if len(dropped) == len(rows):
            raise DataError(f"{name}: too_long=drop leaves no examples; {_sentence(found[0], len(rows))}.")
        done = f"{len(dropped):,} are dropped"
        said += [f"{name}: {_sentence(long, len(rows))}; {done}." for long in found]
        return RemainingRows(rows, dropped), said
    if policy == "split":
        if found[0].limit.tokens < 1:
            raise DataError(f"{name}: texts cannot be split into pieces of {found[0].limit.tokens} tokens.")
        split = SplitRows(rows, found[0])
        return split, [*said, f"{name}: {_sentence(found[0], len(rows))}; they are split into {len(split):,} examples."]
    said += [f"{name}: {_sentence(long, len(rows))}; {_cut(long, policy)}" for long in found]
    cut = {long.column: long.limit.tokens for long in found if long.limit.truncate in ("error", None)}
    return (TruncatedRows(rows, cut) if policy == "truncate" and cut else rows), said


def _empty(rows: ArrowRows, name: str) -> list[str]:
    count = rows.num_empty(TEXT)
    return [f"{name}: {count:,} of {len(rows):,} examples are empty."] if count else []


def _sentence(long: TooLong, num_rows: int) -> str:
    what = "prompts" if long.column == PROMPT else "texts"
    return (
        f"{len(long.rows):,} of {num_rows:,} {what} have more than the {long.limit.tokens:,} tokens that fit "
        f"({long.limit.setting or SETTING[long.column]}), the longest {int(long.lengths.max()):,}"
    )


def _cut(long: TooLong, policy: str | None) -> str:
    if policy is None and long.limit.truncate is None:
        return "the collator decides what happens to them. Set too_long to truncate, drop, split or error."
    end = "start" if long.limit.truncate == "left" or long.column == PROMPT else "end"
    return f"their {end} is cut off." + ("" if policy else " To change this, set too_long to drop, split or error.")


def _refusal(long: TooLong, num_rows: int, name: str, where: Callable[[int], str]) -> str:
    choices = "truncate or drop" if long.column == PROMPT else "truncate, drop or split"
    return (
        f"{name}: {_sentence(long, num_rows)}. The first is {where(int(long.rows[0]))}.\n"
        f"Raise {long.limit.setting or SETTING[long.column]}, or set too_long to {choices} "
        f"(too_long=… for all data, or datamodule.dataset_managers.{name}.too_long=…)."
    )

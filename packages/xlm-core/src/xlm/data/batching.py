"""How the rows of a training set become batches: of similar lengths, within a budget of tokens, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from xlm.data.fitting import limits_of
from xlm.data.rows import Ints, Rows
from xlm.errors import DataError
from xlm.modules.packing import TOKEN_INDEX

Batching = Literal["longest", "buckets", "packed"]
"""
- "longest": random batches, padded to their longest row.
- "buckets": rows of similar lengths share a batch.
- "packed": random batches, whose padding is not computed (`xlm.modules.packing`).
"""

_TEXT, _PROMPT = "input_ids", "prompt_ids"
# BOS and EOS, or what a collator has in their place.
_NUM_SPECIAL = 2
# A bucket has enough rows for about this many batches, so that it matters little which rows are alike in length.
_BATCHES_PER_BUCKET = 8
# A packed batch has at least two thirds of its budget.
_ROWS_PER_BUDGET = 3

Floats = npt.NDArray[np.float64]


class PackedCollator:
    """The batches of another collator, with the places of their real tokens: `token_index`, which networks pack by."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Any]) -> None:
        self.collate = collate

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Any:
        batch = self.collate(list(examples))
        # Found here, on the CPU and in a worker: on a GPU it would make every step wait.
        batch[TOKEN_INDEX] = batch["attention_mask"].reshape(-1).nonzero().squeeze(-1)
        return batch


class Cuts(Protocol):
    """How the permutation of an epoch is cut into batches; their number is the same in every epoch."""

    @property
    def num_batches(self) -> int:
        """Batches of each process."""
        ...

    @property
    def identity(self) -> str:
        """Two cuts with another identity put a position of an epoch at other rows."""
        ...

    def cut(self, order: Ints, generator: np.random.Generator | None) -> tuple[Ints, Ints]:
        """Rows in the order of their places, and the place at which each batch begins; last, the number of places.

        Batch k of process r of W is number k · W + r. Without a generator nothing is shuffled.
        """
        ...


@dataclass(frozen=True, eq=False)
class Buckets:
    """Rows of similar lengths share a batch; which of them, and the order of the batches, changes with every epoch.

    Rows fall into buckets of similar lengths. Each epoch, the rows of a bucket are in random order, the buckets follow
    each other, the sequence is cut, and the batches are shuffled. Where a cut falls depends on the lengths alone. So
    every epoch has the same number of batches, and every process.

    Args:
        parts: (rows, parts) lengths; a batch is as wide as the sum over parts of their longest.
        batch_size: rows of a batch of one process, without `max_tokens`.
        max_tokens: most positions of a batch of one process, padding included; it decides the number of rows, and
            only fewer rows than processes are dropped.
        drop_last: drop the rows that don't fill a batch, other ones in each epoch; only without `max_tokens`.
    """

    parts: Ints
    batch_size: int
    world_size: int = 1
    max_tokens: int | None = None
    drop_last: bool = True

    @property
    def identity(self) -> str:
        if self.max_tokens is None:
            return f"{self._global_size} rows of similar lengths"
        return f"{self.max_tokens} tokens in rows of similar lengths, of {self.world_size} processes"

    @property
    def _global_size(self) -> int:
        return self.batch_size * self.world_size

    @cached_property
    def _labels(self) -> npt.NDArray[np.int32]:
        if self.max_tokens is None:
            shares = np.full(len(self.parts), 1 / self._global_size)
        else:
            shares = self.parts.sum(axis=1) / (self.max_tokens * self.world_size)
        return bucket_labels(self.parts, shares, _BATCHES_PER_BUCKET)

    @cached_property
    def _sizes(self) -> Ints:
        """Rows of each batch of all processes, in the order of the buckets."""
        if self.max_tokens is None:
            full, rest = divmod(len(self.parts), self._global_size)
            keeps_rest = rest >= self.world_size and (full == 0 or not self.drop_last)
            return np.array([self._global_size] * full + [rest] * keeps_rest, dtype=np.int64)
        order = np.argsort(self._labels, kind="stable")
        starts = np.searchsorted(self._labels[order], np.arange(self._labels.max() + 1))
        widths = np.maximum.reduceat(self.parts[order], starts, axis=0)
        counts = np.diff(np.append(starts, len(order)))
        return _within_budget(counts.tolist(), widths.tolist(), self.max_tokens, self.world_size)

    @property
    def num_batches(self) -> int:
        return len(self._sizes)

    def cut(self, order: Ints, generator: np.random.Generator | None) -> tuple[Ints, Ints]:
        sizes = self._sizes
        if self.max_tokens is None:  # the ones that are left out are any, not the longest
            order = order[: sizes.sum()]
        order = order[np.argsort(self._labels[order], kind="stable")]
        starts = np.cumsum(sizes) - sizes
        if generator is not None:
            shuffled = generator.permutation(len(sizes))
            starts, sizes = starts[shuffled], sizes[shuffled]
        ends = np.cumsum(sizes)
        rows = order[np.repeat(starts - (ends - sizes), sizes) + np.arange(sizes.sum())]
        return rows, bounds_of(sizes, self.world_size)


@dataclass(frozen=True, eq=False)
class TokenBudget:
    """Random batches with at most `max_tokens` real tokens in each process, as many batches in every epoch.

    Batch k of K has the rows whose first token is among tokens k · total / K … (k + 1) · total / K of the epoch, so it
    has less than total / K tokens and one row more.
    """

    lengths: Ints
    max_tokens: int
    world_size: int = 1

    def __post_init__(self) -> None:
        longest = int(self.lengths.max())
        if self.max_tokens < _ROWS_PER_BUDGET * longest:
            raise DataError(
                f"max_tokens_per_batch is {self.max_tokens:,}, and must be at least {_ROWS_PER_BUDGET * longest:,} for "
                f"packed batches of rows of up to {longest:,} tokens."
            )
        if int(self.lengths.sum()) < longest * self.num_batches * self.world_size:
            raise DataError(
                f"A data set of {int(self.lengths.sum()):,} tokens is too small for {self.world_size} processes."
            )

    @property
    def identity(self) -> str:
        return f"{self.max_tokens} tokens of {self.world_size} processes"

    @cached_property
    def num_batches(self) -> int:
        room = (self.max_tokens - int(self.lengths.max())) * self.world_size
        return -(-int(self.lengths.sum()) // room)

    def cut(self, order: Ints, generator: np.random.Generator | None) -> tuple[Ints, Ints]:
        ends = np.cumsum(self.lengths[order])
        K = self.num_batches * self.world_size
        share, rest = divmod(int(ends[-1]), K)
        numbers = np.arange(K + 1)
        bounds = np.searchsorted(ends - self.lengths[order], numbers * share + numbers * rest // K)
        bounds[-1] = len(order)
        return order, bounds


def bounds_of(sizes: Ints, world_size: int) -> Ints:
    """Where each process's share of each batch begins, given the rows of all; shares differ by at most one row."""
    shares = sizes[:, None] // world_size + (np.arange(world_size) < sizes[:, None] % world_size)
    return np.concatenate([[0], np.cumsum(shares)])


def bucket_labels(parts: Ints, shares: Floats, least: float) -> npt.NDArray[np.int32]:
    """The bucket of each row; buckets are numbered by length, and have a sum of shares of about `least` or more.

    With several parts, rows are divided by the first, and each group by the next, into as many groups each.
    """
    labels = np.zeros(len(parts), dtype=np.int32)
    varying = [part for part in parts.T if part.min() != part.max()]
    for depth, part in enumerate(varying):
        order = np.argsort(labels, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
        first = 0
        for group in groups:
            total = float(shares[group].sum())
            num_groups = max(1.0, total / least) ** (1 / (len(varying) - depth))
            found = _consecutive(part[group], shares[group], total / num_groups)
            labels[group] = found + first
            first += int(found.max()) + 1
    return labels


def _consecutive(values: Ints, shares: Floats, step: float) -> Ints:
    """Numbers of groups of consecutive values, whose shares are about `step` where single values have less."""
    _, number = np.unique(values, return_inverse=True)
    weights = np.bincount(number, weights=shares)
    before = np.cumsum(weights) - weights
    _, group = np.unique(np.floor(before / step), return_inverse=True)
    return np.asarray(group[number], dtype=np.int64)


def _within_budget(counts: list[int], widths: list[list[int]], max_tokens: int, world_size: int) -> Ints:
    """Rows of the batches of all processes when rows of those counts and widths follow each other."""

    def most(longest: list[int]) -> int:
        return max(1, max_tokens // sum(longest)) * world_size

    sizes: list[int] = []
    left, bucket = list(counts), 0
    while bucket < len(left):
        longest, room, end = widths[bucket], left[bucket], bucket
        while most(longest) > room and end + 1 < len(left):
            wider = [max(pair) for pair in zip(longest, widths[end + 1], strict=True)]
            if room >= world_size and most(wider) <= room - room % world_size:
                break  # a batch that goes on into the next bucket would not have more rows
            longest, end = wider, end + 1
            room += left[end]
        size = min(most(longest), room)
        size -= size % world_size if size > world_size else 0
        sizes.append(size)
        while bucket < len(left) and left[bucket] <= size:
            size -= left[bucket]
            bucket += 1
        if bucket < len(left):
            left[bucket] -= size
    if sizes[-1] < world_size:
        sizes.pop()  # fewer rows than processes
    return np.array(sizes, dtype=np.int64)


def cuts_of(
    rows: Rows,
    collator: Any,
    batching: Batching,
    max_tokens: int | None,
    *,
    batch_size: int,
    world_size: int,
    drop_last: bool,
    made_on_the_fly: bool = False,
) -> Cuts | None:
    """How an epoch is cut into batches; None for consecutive rows of a permutation.

    Args:
        collator: its `token_limits` say what it cuts off; `pad_to` and `fills_block`, whether lengths are fixed.
        made_on_the_fly: a processor may change the stored lengths.

    Raises:
        DataError: lengths are not known, all rows have the same length, or a row alone exceeds the budget.
    """
    if batching == "longest":
        if max_tokens is not None:
            raise DataError("max_tokens_per_batch needs batching=buckets or batching=packed.")
        return None
    fixed = getattr(collator, "pad_to", None) == "block"
    filled = bool(getattr(collator, "fills_block", False))
    text = rows.lengths(_TEXT)
    if text is None:
        raise DataError(f"batching={batching} needs rows with {_TEXT}, whose lengths are known before they are loaded.")
    prompts = rows.lengths(_PROMPT)
    if fixed or (filled and prompts is None):
        why = "pad_to=block" if fixed else "text_length=learnt or lm1b_protocol"
        raise DataError(
            f"batching={batching} would change nothing, as {why} gives every row the length of its block. "
            f"Set {'pad_to=longest' if fixed else 'text_length=modelled or given'}, or leave batching out."
        )
    if max_tokens is None and batching == "packed":
        return None
    if max_tokens is not None and made_on_the_fly:
        raise DataError("max_tokens_per_batch needs stored lengths, but an on_the_fly_processor makes these examples.")
    limits = limits_of(collator, [_TEXT, _PROMPT], made_on_the_fly=False)
    text = np.minimum(text, limits[_TEXT].tokens) if _TEXT in limits else text
    text = np.full_like(text, collator.block_size) if filled else text + _NUM_SPECIAL
    columns = [text]
    if prompts is not None:
        columns.insert(0, np.minimum(prompts, limits[_PROMPT].tokens) if _PROMPT in limits else prompts)
    parts = np.stack(columns, axis=1)
    longest = int(parts.sum(axis=1).max())
    if max_tokens is not None and longest > max_tokens:
        raise DataError(
            f"max_tokens_per_batch is {max_tokens:,}, but the longest row has {longest:,} tokens with its special "
            "tokens. Raise it, or let too_long truncate, split or drop longer rows."
        )
    if batching == "packed":
        assert max_tokens is not None
        return TokenBudget(parts.sum(axis=1), max_tokens, world_size)
    return Buckets(parts, batch_size, world_size, max_tokens, drop_last)

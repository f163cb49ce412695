"""The order of examples: a pure function of seed, epoch, rank and sizes, in training as in evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xlm.errors import DataError


class Key(NamedTuple):
    """Which epoch an example is drawn in, its row, and its place in that epoch's order. Its noise follows."""

    epoch: int
    row: int
    place: int


@dataclass(frozen=True)
class TrainOrder:
    """A new permutation every epoch, cut into global batches, of which every rank takes its slice.

    So all ranks together see what one process with the global batch sees. With `drop_last` a ragged last
    global batch is left out (unless it is the only one); without it, its examples are spread over the ranks
    as evenly as possible, and left out where they are fewer than ranks. `repeats` epochs make a longer one.
    """

    num_examples: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    drop_last: bool = True
    repeats: int = 1

    def __post_init__(self) -> None:
        _check(self.num_examples, self.batch_size, self.world_size)

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def _num_batches_once(self) -> int:
        full, rest = divmod(self.num_examples, self.global_batch_size)
        keeps_rest = rest >= self.world_size and (full == 0 or not self.drop_last)
        return full + keeps_rest

    @property
    def num_batches(self) -> int:
        """Batches of one epoch, the same on every rank."""
        return self._num_batches_once * self.repeats

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[list[Key]]:
        """This rank's batches of `epoch`, from batch `start` on."""
        first_repeat, first_batch = divmod(start, self._num_batches_once)
        for repeat in range(first_repeat, self.repeats):
            drawn = epoch * self.repeats + repeat
            order = self._order(drawn)
            for number in range(first_batch, self._num_batches_once):
                start = number * self.global_batch_size
                places = np.arange(start, min(start + self.global_batch_size, self.num_examples))
                ours = np.array_split(places, self.world_size)[self.rank]
                yield [Key(drawn, int(order[place]), place) for place in ours.tolist()]
            first_batch = 0

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_examples)
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_examples)


@dataclass(frozen=True)
class EvalOrder:
    """Every example once, in order; each rank has a consecutive share, none padded, none dropped.

    All ranks have equally many batches, since each forward pass under DDP may synchronise: where their
    numbers would differ, a rank cuts its share into more, smaller batches (or one example more in each).
    """

    num_examples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        _check(self.num_examples, self.batch_size, self.world_size)

    @property
    def num_batches(self) -> int:
        """The same on every rank."""
        largest_share = math.ceil(self.num_examples / self.world_size)
        return min(math.ceil(largest_share / self.batch_size), self.num_examples // self.world_size)

    def batches(self) -> Iterator[list[Key]]:
        share = np.array_split(np.arange(self.num_examples), self.world_size)[self.rank]
        if math.ceil(len(share) / self.batch_size) == self.num_batches:
            parts = [share[start : start + self.batch_size] for start in range(0, len(share), self.batch_size)]
        else:
            parts = np.array_split(share, self.num_batches)
        for part in parts:
            yield [Key(0, index, index) for index in part.tolist()]


def _check(num_examples: int, batch_size: int, world_size: int) -> None:
    if batch_size < 1:
        raise DataError(f"The batch size must be at least 1; got {batch_size}.")
    if num_examples < world_size:
        raise DataError(f"A data set of {num_examples} examples is too small for {world_size} processes.")

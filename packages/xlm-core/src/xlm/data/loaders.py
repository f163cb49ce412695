"""Data loaders: the order of examples, resumable loaders for training, complete loaders for evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from xlm.data.batching import Batching, Cuts, PackedCollator, bounds_of, cuts_of
from xlm.data.functional import NUM_BYTES
from xlm.data.hashing import noise_seeds, time_quantiles
from xlm.data.on_the_fly import accepted_keys
from xlm.data.rows import Ints, Rows
from xlm.data.shifting import fetch_of_epoch
from xlm.errors import DataError
from xlm.utils.annotations import Count
from xlm.utils.instantiate import building, check_arguments


class Key(NamedTuple):
    """The epoch in which an example is drawn, its row, and its place in the epoch's order. They determine its noise."""

    epoch: int
    row: int
    place: int


@dataclass(frozen=True)
class TrainOrder:
    """A new permutation every epoch, cut into global batches; every rank takes its slice of each.

    So all ranks together see the batches of one process with the global batch size. With `drop_last`, a ragged last
    global batch is dropped (unless it is the only one); without it, its examples are spread over the ranks as evenly
    as possible, and dropped if there are fewer of them than ranks. `repeats` permutations make one longer epoch.
    `cuts` may cut the permutation otherwise, by the lengths of the rows.
    """

    num_examples: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    drop_last: bool = True
    repeats: int = 1
    cuts: Cuts | None = None

    def __post_init__(self) -> None:
        _check(self.num_examples, self.batch_size, self.world_size)

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def _num_batches_once(self) -> int:
        if self.cuts is not None:
            return self.cuts.num_batches
        full, rest = divmod(self.num_examples, self.global_batch_size)
        keeps_rest = rest >= self.world_size and (full == 0 or not self.drop_last)
        return full + keeps_rest

    @property
    def num_batches(self) -> int:
        """Batches of one epoch, the same on every rank."""
        return self._num_batches_once * self.repeats

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[list[Key]]:
        """This rank's batches of `epoch`, starting at batch `start`."""
        first_repeat, first_batch = divmod(start, self._num_batches_once)
        for repeat in range(first_repeat, self.repeats):
            drawn = epoch * self.repeats + repeat
            order, bounds = self._cut(drawn)
            starts = bounds.tolist()
            for number in range(first_batch, self._num_batches_once):
                ours = number * self.world_size + self.rank
                start, end = starts[ours], starts[ours + 1]
                yield [Key(drawn, row, start + n) for n, row in enumerate(order[start:end].tolist())]
            first_batch = 0

    def _cut(self, epoch: int) -> tuple[Ints, Ints]:
        """Rows by place, and the place at which each batch of each rank begins; last, the number of places."""
        order = self._order(epoch)
        if self.cuts is not None:
            return self.cuts.cut(order, np.random.default_rng((self.seed, epoch, 1)) if self.shuffle else None)
        starts = np.arange(self._num_batches_once) * self.global_batch_size
        sizes = np.minimum(self.global_batch_size, self.num_examples - starts)
        return order, bounds_of(sizes, self.world_size)

    def _order(self, epoch: int) -> Ints:
        if not self.shuffle:
            return np.arange(self.num_examples)
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_examples)


@dataclass(frozen=True)
class EvalOrder:
    """Every example once, in order; each rank gets a consecutive share, without padding or dropping.

    All ranks have the same number of batches, since every forward pass under DDP may synchronize: where the
    numbers would differ, a rank cuts its share into more, smaller batches (or puts one more example into each).
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

    def batch(self, number: int) -> list[Key]:
        """This rank's batch of that number, by calculation."""
        share = _part(range(self.num_examples), self.world_size, self.rank)
        if math.ceil(len(share) / self.batch_size) == self.num_batches:
            rows = share[number * self.batch_size : (number + 1) * self.batch_size]
        else:
            rows = _part(share, self.num_batches, number)
        return [Key(0, row, row) for row in rows]

    def batches(self) -> Iterator[list[Key]]:
        """All of this rank's batches, one at a time."""
        return map(self.batch, range(self.num_batches))

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        return self.batches()


def _part(rows: range, num_parts: int, number: int) -> range:
    """One of `num_parts` consecutive parts whose sizes differ by at most one; the first ones are larger."""
    size, num_larger = divmod(len(rows), num_parts)
    start = number * size + min(number, num_larger)
    return rows[start : start + size + (number < num_larger)]


def _check(num_examples: int, batch_size: int, world_size: int) -> None:
    if batch_size < 1:
        raise DataError(f"The batch size must be at least 1; got {batch_size}.")
    if num_examples < world_size:
        raise DataError(f"A data set of {num_examples} examples is too small for {world_size} processes.")


logger = logging.getLogger(__name__)

Collate = Callable[[list[dict[str, Any]]], Any]
Processor = Callable[..., dict[str, Any]]
_OWN_OPTIONS = ("batch_size", "shuffle", "drop_last", "batching", "max_tokens_per_batch")
_DATALOADER_OPTIONS = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers", "timeout")


class KeyedExamples:
    """Examples by key: a processed row with the `noise_seed` and `time_quantile` of the key."""

    def __init__(self, rows: Rows, seed: int, processor: Processor | None = None) -> None:
        self._rows = rows
        self._seed = seed
        self._processor = processor
        self._names = () if processor is None else accepted_keys(processor, by_any_name=True)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        return self.__getitems__([key if isinstance(key, tuple) else Key(0, key, key)])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """A whole batch at once; called by torch's loader."""
        indices = [key.row for key in keys]
        examples = self.rows_of(keys)
        for example in examples:
            example.pop(NUM_BYTES, None)  # processors and collators don't see it; `rows_of` keeps it
        epoch = keys[0].epoch
        seeds = noise_seeds(self._seed, epoch, np.array(indices))
        if self._processor is not None:
            examples = list(map(self._processed, examples, keys, seeds.tolist()))
        quantiles = time_quantiles(self._seed, epoch, np.array([key.place for key in keys]))
        for example, seed, quantile in zip(examples, seeds.tolist(), quantiles.tolist(), strict=True):
            example["noise_seed"] = seed
            example["time_quantile"] = example["noise_level"] = quantile  # the second is the older name
        return examples

    def _processed(self, example: dict[str, Any], key: Key, seed: int) -> dict[str, Any]:
        assert self._processor is not None
        known = {"noise_seed": seed, "epoch": key.epoch, "row": key.row}
        return self._processor(example, **{name: known[name] for name in self._names})

    def rows_of(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """The stored rows of the keys, including the number of bytes of a text."""
        epoch = keys[0].epoch if keys else 0  # a batch never spans two epochs
        return fetch_of_epoch(self._rows, epoch, [key.row for key in keys])


class WrapsDataLoader:
    """Wraps torch's DataLoader instead of subclassing it, so that Lightning leaves it unchanged.

    Lightning re-creates DataLoaders with its own samplers and warns about their workers.
    """

    _dataloader: DataLoader[Any]

    @property
    def num_workers(self) -> int:
        return self._dataloader.num_workers

    # Lightning shuts down workers through this attribute when a loop ends.
    @property
    def _iterator(self) -> Any:
        return self._dataloader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self._dataloader._iterator = value


class _Loader(WrapsDataLoader):
    """Batches of rows in an order that is known beforehand."""

    order: TrainOrder | EvalOrder

    def __init__(self, examples: KeyedExamples, collate: Collate, batches: Any, options: dict[str, Any]) -> None:
        self.dataset = examples
        self.collate_fn = collate
        # Its own generator: creating an iterator must not change the global random state.
        self._dataloader = DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            generator=torch.Generator(),
            **options,
        )

    def first_keys(self) -> list[Key]:
        """The keys of the very first batch, whatever was taken since."""
        return next(iter(self.order.batches()))


class StatefulTrainLoader(_Loader):
    """Training batches that continue exactly where a saved run stopped.

    Each `iter()` is the next epoch, but an epoch from which no batch was taken is started again.
    The state counts batches that were handed out, not batches that workers prefetched.
    """

    order: TrainOrder

    def __init__(self, examples: KeyedExamples, collate: Collate, order: TrainOrder, **options: Any) -> None:
        self.order = order
        self._epoch = 0
        self._position = 0  # batches of the epoch handed out so far
        self._untouched = True  # no batch was handed out since the position was set
        super().__init__(examples, collate, _BatchesFrom(self), options)

    def __len__(self) -> int:
        return self.order.num_batches

    def __iter__(self) -> Iterator[Any]:
        if not self._untouched:
            self._epoch, self._position, self._untouched = self._epoch + 1, 0, True
        return self._run()

    def _run(self) -> Iterator[Any]:
        for batch in self._dataloader:
            self._position += 1
            self._untouched = False
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of batches handed out; the end of an epoch is the start of the next."""
        epoch, position = self._epoch, self._position
        if position >= len(self):
            epoch, position = epoch + 1, 0
        order = self.order
        cuts = {} if order.cuts is None else {"cuts": order.cuts.identity}
        return {
            "epoch": epoch,
            "batch": position,
            "num_batches": len(self),
            "global_batch_size": order.global_batch_size,
            "num_examples": order.num_examples,
            "seed": order.seed,
            **cuts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next `iter()` at the saved position; with another batch size, at the nearest earlier one."""
        self._epoch, self._position, self._untouched = state["epoch"], state["batch"], True
        order = self.order
        if state["num_examples"] != order.num_examples or state["seed"] != order.seed:
            logger.warning(
                "The saved run had %d training examples and seed %d, this run has %d and %d: epoch %d starts over.",
                state["num_examples"], state["seed"], order.num_examples, order.seed, self._epoch,
            )  # fmt: skip
            self._position = 0
        elif state.get("cuts") != (cuts := None if order.cuts is None else order.cuts.identity):
            logger.warning(
                "The saved run had batches of %s, this run has %s: epoch %d starts over.",
                state.get("cuts") or "random rows", cuts or "random rows", self._epoch,
            )  # fmt: skip
            self._position = 0
        elif state["global_batch_size"] != order.global_batch_size:
            self._position = self._position * state["global_batch_size"] // order.global_batch_size
            self._position = min(self._position, len(self) - 1)


class _BatchesFrom:
    """The batches of a loader's order from its current position."""

    def __init__(self, loader: StatefulTrainLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Key]]:
        return self._loader.order.batches(self._loader._epoch, self._loader._position)


class EvalLoader(_Loader):
    """Every example of this rank once, in order."""

    order: EvalOrder

    def __init__(self, examples: KeyedExamples, collate: Collate, order: EvalOrder, **options: Any) -> None:
        self.order = order
        super().__init__(examples, collate, order, options)

    def __len__(self) -> int:
        return self.order.num_batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._dataloader)

    def rows_of_batch(self, batch_idx: int) -> list[dict[str, Any]]:
        """The rows behind this rank's batch, with the number of bytes that the collator does not see."""
        return self.dataset.rows_of(self.order.batch(batch_idx))


class CombinedTrainLoader:
    """Several training loaders side by side: batches are `{name: batch}`; an epoch is as long as the longest loader's.

    Shorter ones start their next epoch when they end. Every position is a function of (epoch, step), so that resuming
    is exact.
    """

    def __init__(self, loaders: Mapping[str, StatefulTrainLoader]) -> None:
        self.loaders = dict(loaders)
        self._epoch = 0
        self._step = 0
        self._untouched = True

    def __len__(self) -> int:
        return max(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._untouched:
            self._epoch, self._step, self._untouched = self._epoch + 1, 0, True
        return self._run()

    def _run(self) -> Iterator[dict[str, Any]]:
        taken = self._epoch * len(self) + self._step
        streams = {name: _endless(loader, taken) for name, loader in self.loaders.items()}
        while self._step < len(self):
            batch = {name: next(stream) for name, stream in streams.items()}
            self._step += 1
            self._untouched = False
            yield batch

    def state_dict(self) -> dict[str, int]:
        epoch, step = divmod(self._epoch * len(self) + self._step, len(self))
        return {"epoch": epoch, "batch": step, "num_batches": len(self)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._epoch, self._step, self._untouched = state["epoch"], state["batch"], True


def _endless(loader: StatefulTrainLoader, taken: int) -> Iterator[Any]:
    """Epoch after epoch of `loader`, as if `taken` batches had been handed out already."""
    epoch, batch = divmod(taken, len(loader))
    loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "batch": batch})
    while True:
        yield from loader


def make_loader(
    rows: Rows,
    collate: Collate,
    *,
    train: bool,
    batch_size: int,
    processor: Processor | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool | None = None,
    drop_last: bool | None = None,
    repeats: int = 1,
    batching: Batching | None = None,
    max_tokens_per_batch: Count | None = None,
    **options: Any,
) -> StatefulTrainLoader | EvalLoader:
    """A loader over `rows`; by default, training is shuffled and drops a ragged last batch.

    `batching` and `max_tokens_per_batch` say how rows of training become batches: see `xlm.data.batching`. Evaluation
    keeps its order and its batches, and is packed where training is.
    `processor(example)` runs whenever an example is fetched; it gets those of `xlm.data.on_the_fly.KEYS` that it takes.
    `options` are passed to torch: num_workers, pin_memory, prefetch_factor, persistent_workers, timeout.
    """
    _check_known(options)
    options = options_of_workers(options)
    examples = KeyedExamples(rows, seed, processor)
    collator = collate
    if batching == "packed":
        collate = PackedCollator(collate)
    if not train:
        if shuffle or drop_last:
            raise DataError("Evaluation sees every example once and in order: shuffle and drop_last must be false.")
        return EvalLoader(examples, collate, EvalOrder(len(rows), batch_size, rank, world_size), **options)
    cuts = None
    if batching is not None or max_tokens_per_batch is not None:
        _check(len(rows), batch_size, world_size)
        cuts = cuts_of(
            rows,
            collator,
            batching or "longest",
            max_tokens_per_batch,
            batch_size=batch_size,
            world_size=world_size,
            drop_last=drop_last is not False,
            made_on_the_fly=processor is not None,
        )
    order = TrainOrder(
        num_examples=len(rows),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle is not False,
        drop_last=drop_last is not False,
        repeats=repeats,
        cuts=cuts,
    )
    return StatefulTrainLoader(examples, collate, order, **options)


def options_of_workers(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for torch's loader; without workers, torch accepts none of theirs."""
    if options.get("num_workers"):
        return dict(options)
    return {**options, "num_workers": 0, "prefetch_factor": None, "persistent_workers": False}


def check_options(options: Mapping[str, Any], key: str) -> None:
    """ConfigError if `make_loader` does not accept these arguments; `key` is the config key that contains them."""
    check_arguments(make_loader, options, key)
    torchs = {name: value for name, value in options.items() if name in _DATALOADER_OPTIONS}
    check_arguments(DataLoader, torchs, key)
    _check_known({name: value for name, value in options.items() if name not in _OWN_OPTIONS})
    if not torchs.get("num_workers"):
        torchs = {"num_workers": 0}  # `make_loader` omits options for workers
    with building(key, DataLoader, options):
        DataLoader([0], batch_size=options.get("batch_size"), **torchs)  # type: ignore[arg-type]


def _check_known(options: Mapping[str, Any]) -> None:
    if unknown := sorted(options.keys() - set(_DATALOADER_OPTIONS)):
        known = (*_OWN_OPTIONS, *_DATALOADER_OPTIONS)
        raise DataError(f"Unknown dataloader_kwargs: {', '.join(unknown)}. Known: {', '.join(known)}.")

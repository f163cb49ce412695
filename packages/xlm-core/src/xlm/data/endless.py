"""Endless training data: streams and mixtures, with a position that a checkpoint restores exactly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from xlm.data.batching import PackedCollator
from xlm.data.functional import NUM_BYTES
from xlm.data.hashing import noise_seeds, time_quantiles
from xlm.data.loaders import WrapsDataLoader, options_of_workers
from xlm.data.mixtures import PartOrder, Phase, mixture_phases
from xlm.data.rows import Rows
from xlm.data.shifting import fetch_of_epoch
from xlm.data.stream_examples import StreamOfSource
from xlm.data.streams import Example, Lane, Mark, Stream
from xlm.errors import DataError
from xlm.utils.rank_zero import all_gather_objects

logger = logging.getLogger(__name__)

# The batches of an epoch, for Lightning, which counts them: more than any run has.
ENDLESS = 2**40
# The key of a batch of a mixture with its parts: `of_rows`, (B,) int64, the part of each row, and `batches`, in one of
# `measure_every` steps a batch of the rows of each part, by its number.
PARTS = "xlm_parts"
# Marks kept for every lane of a checkpoint: enough for batches that are taken back.
_KEPT_MARKS = 3


class Slot(NamedTuple):
    """One example of a run: its lane, its number in the lane, and its number among all examples of the run.

    is_measured: whether the parts of its batch are also collated apart, to measure their losses.
    """

    lane: int
    number: int
    place: int
    is_measured: bool = False


class Part(Protocol):
    """Endless examples in lanes."""

    def num_lanes(self) -> int: ...

    def fetch(self, lane: int, num_lanes: int, numbers: Sequence[int]) -> list[Example]:
        """The examples with these numbers in a lane of `num_lanes`, a multiple of the part's own."""
        ...


class RowsPart:
    """Prepared rows: a new permutation in every epoch, dealt to the lanes one by one."""

    def __init__(self, rows: Rows, seed: int, shuffle: bool = True) -> None:
        self._rows, self._seed, self._shuffle = rows, seed, shuffle
        self._orders: dict[int, Any] = {}

    def num_lanes(self) -> int:
        return 1

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, lane: int, num_lanes: int, numbers: Sequence[int]) -> list[Example]:
        places = [divmod(number * num_lanes + lane, len(self._rows)) for number in numbers]
        keys = [(epoch, int(self._order(epoch)[place]) if self._shuffle else place) for epoch, place in places]
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for epoch in {epoch for epoch, _ in keys}:
            rows = [row for each, row in keys if each == epoch]
            found |= zip(((epoch, row) for row in rows), fetch_of_epoch(self._rows, epoch, rows), strict=True)
        return [Example(found[key], *key) for key in keys]

    def _order(self, epoch: int) -> Any:
        if epoch not in self._orders:
            self._orders = dict(list(self._orders.items())[-1:])  # lanes may be an epoch apart
            self._orders[epoch] = np.random.default_rng((self._seed, epoch)).permutation(len(self._rows))
        return self._orders[epoch]


class StreamPart:
    """A stream; its lanes are read by whoever needs them."""

    def __init__(self, stream: Stream, num_lanes: int | None = None) -> None:
        self.stream = stream
        self._num_lanes = stream.num_lanes() if num_lanes is None else num_lanes
        self._lanes: dict[int, Lane] = {}
        #: By lane: where reading may start, from a checkpoint.
        self.marks: dict[int, list[Mark]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lanes": {}}

    def num_lanes(self) -> int:
        return self._num_lanes

    def fetch(self, lane: int, num_lanes: int, numbers: Sequence[int]) -> list[Example]:
        # Several of the run's lanes may share one of the stream, whose examples they take in turns.
        sharing = num_lanes // self._num_lanes
        return self._lane(lane).fetch([number * sharing + lane // self._num_lanes for number in numbers])

    def mark(self, lane: int, num_lanes: int, number: int) -> tuple[int, Mark]:
        """The stream's lane, and a place from which the example can be read."""
        sharing = num_lanes // self._num_lanes
        return lane % self._num_lanes, self._lane(lane).mark_before(number * sharing + lane // self._num_lanes)

    def forget(self) -> None:
        """Start again from the marks."""
        self._lanes.clear()

    def _lane(self, lane: int) -> Lane:
        own = lane % self._num_lanes
        if own not in self._lanes:
            self._lanes[own] = Lane(self.stream, own, self._num_lanes, self.marks.get(own, ()))
        return self._lanes[own]


Processor = Callable[..., dict[str, Any]]
Collate = Callable[[list[dict[str, Any]]], Any]


class _Fetched(NamedTuple):
    examples: list[dict[str, Any]]
    parts: list[int]
    marks: list[tuple[int, int, tuple[int, ...]]]
    is_measured: bool
    error: str = ""


class _Delivered(NamedTuple):
    """A batch as it comes from a worker: with the part of every example, and (part, lane, mark) of streams."""

    batch: Any
    batches: dict[int, Any]
    parts: list[int]
    marks: list[tuple[int, int, tuple[int, ...]]]
    error: str = ""  # the message of a DataError, which torch would turn into the traceback of a worker


class EndlessExamples:
    """The examples of slots, with what determines their noise."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        phases: tuple[Phase, ...],
        seed: int,
        processors: Sequence[Processor | None] | None = None,
    ) -> None:
        self.names = tuple(parts)
        self.parts = tuple(parts.values())
        self.num_lanes = max(part.num_lanes() for part in self.parts)
        self._phases, self._seed = phases, seed
        self._processors = list(processors) if processors else [None] * len(self.parts)

    def order(self, lane: int) -> PartOrder:
        """Which part gives the examples of a lane."""
        # All lanes change their weights after the same number of their examples.
        phases = tuple(Phase(phase.start // self.num_lanes, phase.weights) for phase in self._phases)
        return PartOrder(phases, (self._seed, lane))

    def __getitems__(self, slots: Sequence[Slot]) -> _Fetched:
        """The examples of a batch, of consecutive slots of one lane; called by torch's loader."""
        try:
            return self.fetch(slots)
        except DataError as error:
            return _Fetched([], [], [], False, str(error))

    def fetch(self, slots: Sequence[Slot]) -> _Fetched:
        """The examples of a batch; `DataError` if a row cannot be used."""
        lane, first = slots[0].lane, slots[0].number
        if len(self.parts) == 1:
            parts, numbers = np.zeros(len(slots), np.int64), np.arange(first, first + len(slots))
        else:
            parts, numbers = self.order(lane).parts(first, first + len(slots))
        examples: list[dict[str, Any]] = [{}] * len(slots)
        marks = []
        for index, part in enumerate(self.parts):
            places = np.flatnonzero(parts == index).tolist()
            if not places:
                continue
            wanted = numbers[places].tolist()
            if isinstance(part, StreamPart):
                own, mark = part.mark(lane, self.num_lanes, wanted[0])
                marks.append((index, own, tuple(mark)))
            found = part.fetch(lane, self.num_lanes, wanted)
            for place, example in zip(places, self._processed(found, index), strict=True):
                examples[place] = example
        # Evenly spread over all examples of the run: a stream has no epochs of a known length.
        quantiles = time_quantiles(self._seed, 0, np.array([slot.place for slot in slots]))
        for example, quantile in zip(examples, quantiles.tolist(), strict=True):
            example["time_quantile"] = example["noise_level"] = quantile  # the second is the older name
        return _Fetched(examples, parts.tolist(), marks, slots[0].is_measured and len(self.parts) > 1)

    def _processed(self, found: list[Example], part: int) -> Iterator[dict[str, Any]]:
        """The examples of a part after the processor, with their seeds."""
        epochs, rows = np.array([e.epoch for e in found]), np.array([e.row for e in found])
        seeds = np.empty(len(found), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            seeds[epochs == epoch] = noise_seeds(self._seed + part, epoch, rows[epochs == epoch])
        processor = self._processors[part]
        for (columns, epoch, row), seed in zip(found, seeds.tolist(), strict=True):
            columns.pop(NUM_BYTES, None)  # as for other training data
            if processor is not None:
                columns = processor(columns, noise_seed=seed, epoch=epoch, row=row)
            columns["noise_seed"] = seed
            yield columns


class _Marked:
    """A collator that passes parts and marks on."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def __call__(self, fetched: _Fetched) -> _Delivered:
        if fetched.error:
            return _Delivered(None, {}, [], [], fetched.error)
        examples, parts = fetched.examples, fetched.parts
        batches = {}
        try:
            if fetched.is_measured:
                for part in sorted(set(parts)):
                    own = [dict(each) for each, of in zip(examples, parts, strict=True) if of == part]
                    batches[part] = self._collate(own)
            return _Delivered(self._collate(examples), batches, parts, fetched.marks)
        except DataError as error:
            return _Delivered(None, {}, [], [], str(error))


class EndlessLoader(WrapsDataLoader):
    """Training batches without an end, which continue exactly where a saved run stopped.

    Micro-batch m of all ranks together comes from lane m mod L. So each of R ranks with W workers reads only its own
    lanes of a stream, if R · W divides L. The state counts batches that were handed out, by lane; another batch size
    or another number of ranks continues at the same examples.
    """

    def __init__(
        self,
        examples: EndlessExamples,
        collate: Collate,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        measure_every: int = 0,
        **options: Any,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"The batch size must be at least 1; got {batch_size}.")
        self.dataset, self.collate_fn = examples, collate
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._accumulate, self._measure_every = accumulate, measure_every
        # Examples of each lane, and of all, before batch 0 of the current sizes; batches handed out since.
        self._base, self._base_place, self._taken = [0] * examples.num_lanes, 0, 0
        self._epoch, self._batch = 0, 0  # as Lightning counts
        self._untouched = True
        self._marks: dict[tuple[int, int], list[Mark]] = {}
        self._dataloader = DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=_SlotsFrom(self),
            collate_fn=_Marked(collate),  # type: ignore[arg-type]  # of what `__getitems__` returns
            generator=torch.Generator(),
            **options,
        )

    def __len__(self) -> int:
        return ENDLESS

    def slots(self, number: int) -> list[Slot]:
        """The slots of this rank's batch with that number since the base."""
        size, micro = self._batch_size, number * self._world_size + self._rank
        turn, lane = divmod(micro, len(self._base))
        first, place = self._base[lane] + turn * size, self._base_place + micro * size
        step = 1 + place // (size * self._world_size * self._accumulate)
        is_measured = self._measure_every > 0 and step % self._measure_every == 0
        return [Slot(lane, first + i, place + i, is_measured) for i in range(size)]

    def first_rows(self) -> list[dict[str, Any]]:
        """This rank's examples of the first batch of a run, without their noise."""
        size, lanes = self._batch_size, len(self._base)
        first, place = self._rank // lanes * size, self._rank * size
        slots = [Slot(self._rank % lanes, first + i, place + i) for i in range(size)]
        examples = self.dataset.fetch(slots).examples
        made = ("noise_seed", "time_quantile", "noise_level")
        return [{k: v for k, v in example.items() if k not in made} for example in examples]

    def __iter__(self) -> Iterator[Any]:
        if not self._untouched:
            self._epoch, self._batch, self._untouched = self._epoch + 1, 0, True
        return self._run()

    def _run(self) -> Iterator[Any]:
        for batch, batches, parts, marks, error in self._dataloader:
            if error:
                raise DataError(error)
            self._taken += 1
            self._batch += 1
            self._untouched = False
            for part, lane, mark in marks:
                self._remember(part, lane, Mark(*mark))
            if len(self.dataset.parts) > 1 and isinstance(batch, dict):
                batch[PARTS] = {"of_rows": torch.tensor(parts), "batches": batches}
            yield batch

    def _remember(self, part: int, lane: int, mark: Mark) -> None:
        known = self._marks.setdefault((part, lane), [])
        if not known or mark.position > known[-1].position:
            known.append(mark)
            del known[:-_KEPT_MARKS]

    def shares(self) -> dict[str, float]:
        """The share of each part of a mixture in the examples so far; empty without any."""
        ends = self._lane_ends()
        if len(self.dataset.parts) == 1 or not sum(ends):
            return {}
        counts = sum(self.dataset.order(lane).counts(end) for lane, end in enumerate(ends))
        return dict(zip(self.dataset.names, (np.asarray(counts) / sum(ends)).tolist(), strict=True))

    def _lane_ends(self) -> list[int]:
        """The examples of each lane that all ranks have used."""
        micro, lanes = self._taken * self._world_size, len(self._base)
        return [base + len(range(lane, micro, lanes)) * self._batch_size for lane, base in enumerate(self._base)]

    def state_dict(self) -> dict[str, Any]:
        """The position; with several ranks all must call this, as each knows the marks of the lanes that it reads."""
        marks: dict[str, list[list[int]]] = {}
        everywhere = all_gather_objects(self._marks) if self._world_size > 1 else [self._marks]
        for (part, lane), known in (item for each in everywhere for item in each.items()):
            together = {*map(tuple, marks.get(f"{part}.{lane}", [])), *map(tuple, known)}
            marks[f"{part}.{lane}"] = [list(mark) for mark in sorted(together)[-_KEPT_MARKS:]]
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "num_batches": ENDLESS,
            "global_batch_size": self._batch_size * self._world_size,
            "num_examples": 0,
            "seed": self.dataset._seed,
            "batch_size": self._batch_size,
            "world_size": self._world_size,
            "taken": self._taken,
            "lanes": list(self._base),
            "place": self._base_place,
            "marks": marks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next `iter()` at the saved position, less the batches that `rewound` takes back."""
        self._epoch, self._batch, self._untouched = state["epoch"], state["batch"], True
        if len(state.get("lanes", ())) != len(self._base) or state["seed"] != self.dataset._seed:
            logger.warning("The saved run had other training data or another seed: the data start over.")
            self._base, self._base_place, self._taken, self._marks = [0] * len(self._base), 0, 0, {}
        else:
            self._base, self._base_place = list(state["lanes"]), state["place"]
            self._taken = max(0, state["taken"] - state.get("rewound", 0))
            self._marks = {
                (int(name.split(".")[0]), int(name.split(".")[1])): [Mark(*mark) for mark in known]
                for name, known in state["marks"].items()
            }
            self._rebase(state["batch_size"], state["world_size"])
        for index, part in enumerate(self.dataset.parts):
            if isinstance(part, StreamPart):
                part.marks = {lane: known for (of, lane), known in self._marks.items() if of == index}
                part.forget()

    def _rebase(self, batch_size: int, world_size: int) -> None:
        """Make the position of a run with other sizes the base."""
        if (batch_size, world_size) == (self._batch_size, self._world_size):
            return
        ours = self._batch_size, self._world_size
        self._batch_size, self._world_size = batch_size, world_size
        ends, place = self._lane_ends(), self._base_place + self._taken * batch_size * world_size
        self._batch_size, self._world_size = ours
        self._base, self._base_place, self._taken = ends, place, 0


class _SlotsFrom:
    """The batches of slots of a loader from its current position."""

    def __init__(self, loader: EndlessLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[list[Slot]]:
        number = self._loader._taken
        while True:
            yield self._loader.slots(number)
            number += 1


def endless_loader(
    sources: Mapping[str, StreamOfSource | Rows],
    buffers: Mapping[str, int],
    processors: Mapping[str, Processor | None],
    collate: Collate,
    mixture: Mapping[str, Any],
    dataloader_kwargs: Mapping[str, Any],
    *,
    seed: int,
    rank: int,
    world_size: int,
    accumulate: int,
    measure_every: int,
) -> EndlessLoader:
    """The loader of a stream (one source) or of a mixture.

    Args:
        sources, buffers, processors: of each part.
        mixture: `weights`, `temperature` and `schedule`, see `xlm.data.mixtures.mixture_phases`.
        dataloader_kwargs: of the data set; `batch_size` is required.
        accumulate: batches of one process in an optimizer step.
        measure_every: the steps between two whose batches also have the parts apart; 0: never.
    """
    options = dict(dataloader_kwargs)
    if "batch_size" not in options:
        raise DataError("A dataset needs dataloader_kwargs.batch_size.")
    batch_size, shuffle = options.pop("batch_size"), options.pop("shuffle", None) is not False
    options.pop("drop_last", None)  # no batch is the last one
    batching, budget = options.pop("batching", None), options.pop("max_tokens_per_batch", None)
    if batching == "buckets" or budget is not None:
        given = "batching=buckets" if budget is None else f"max_tokens_per_batch={budget}"
        raise DataError(
            f"{given} needs the lengths of all examples, which streams and mixtures don't know. "
            "batching=packed doesn't need them."
        )
    if batching == "packed":
        collate = PackedCollator(collate)
    options = options_of_workers(options)
    parts: dict[str, Part] = {}
    for index, (name, source) in enumerate(sources.items()):
        if isinstance(source, StreamOfSource):
            parts[name] = StreamPart(source.stream(seed + index, buffers[name], shuffle))
        else:
            parts[name] = RowsPart(source, seed + index, shuffle)
    phases = mixture_phases(
        list(parts),
        mixture.get("weights"),
        mixture.get("temperature", 1.0),
        mixture.get("schedule"),
        batch_size * world_size * accumulate,
        [len(part) if isinstance(part, RowsPart) else None for part in parts.values()],
    )
    examples = EndlessExamples(parts, phases, seed, list(processors.values()))
    return EndlessLoader(
        examples,
        collate,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        accumulate=accumulate,
        measure_every=measure_every,
        **options,
    )

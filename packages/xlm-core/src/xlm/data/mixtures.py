"""Mixtures: which part of a training set gives each example, by weights that may change with the step.

The sequence of parts is a pure function of the seed. In every block of 1,024 examples each part has its share, rounded
so that no error accumulates, in random order. So the number of a part's examples before any place is a sum of few
terms, and a run can continue anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xlm.data.hashing import hash_of
from xlm.data.rows import Ints
from xlm.errors import ConfigError, did_you_mean, nearest_names

BLOCK = 1024
# The fields of a data set of which one names its source.
_SOURCES = ("data_file", "full_name", "dataset_constructor_str")


@dataclass(frozen=True)
class Phase:
    """The weights from example `start` on, in the order of the parts."""

    start: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class PartOrder:
    """The part of each place of an endless sequence.

    Args:
        phases: in increasing order; the first starts at 0.
        key: the seed and whatever else distinguishes this sequence from others.
    """

    phases: tuple[Phase, ...]
    key: tuple[int, ...]

    def parts(self, start: int, end: int) -> tuple[Ints, Ints]:
        """For the places from `start` to before `end`: the part, and the number of that part's earlier examples."""
        parts = np.concatenate([np.empty(0, np.int64), *(self._parts(*span) for span in self._spans(start, end))])
        counts = self.counts(start)
        numbers = np.empty_like(parts)
        for part in range(len(counts)):
            mine = parts == part
            numbers[mine] = counts[part] + np.arange(mine.sum())
        return parts, numbers

    def counts(self, end: int) -> Ints:
        """The number of each part's examples before a place."""
        total = np.zeros(len(self.phases[0].weights), dtype=np.int64)
        for phase, _, last in self._spans(0, end):
            block, rest = divmod(last, BLOCK)
            total += self._quotas(phase, block)
            if rest:
                total += np.bincount(self._block(phase, block)[:rest], minlength=len(total))
        return total

    def _spans(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """The phases of a range of places: their number, and the first and last place, counted from their start."""
        spans = []
        for number, phase in enumerate(self.phases):
            following = self.phases[number + 1].start if number + 1 < len(self.phases) else end
            first, last = max(start, phase.start), min(end, following)
            if first < last:
                spans.append((number, first - phase.start, last - phase.start))
        return spans

    def _parts(self, phase: int, first: int, last: int) -> Ints:
        blocks = range(first // BLOCK, -(-last // BLOCK))
        found = np.concatenate([self._block(phase, block) for block in blocks])
        return found[first - blocks[0] * BLOCK : last - blocks[0] * BLOCK]

    @cached_property
    def _bounds(self) -> list[Any]:
        """By phase: the expected number per block of the parts up to and including each."""
        return [np.cumsum(np.asarray(p.weights)) / np.sum(p.weights) * BLOCK for p in self.phases]

    def _quotas(self, phase: int, num_blocks: int) -> Ints:
        """Each part's examples in the first blocks of a phase."""
        ends = np.floor(self._bounds[phase] * num_blocks + 0.5).astype(np.int64)
        ends[-1] = num_blocks * BLOCK  # the sum of the weights is rounded too
        return np.diff(ends, prepend=0)

    def _block(self, phase: int, block: int) -> Ints:
        quotas = self._quotas(phase, block + 1) - self._quotas(phase, block)
        parts = np.repeat(np.arange(len(quotas)), quotas)
        return np.random.default_rng((*self.key, phase, block)).permutation(parts)


def mixture_phases(
    names: Sequence[str],
    weights: Mapping[str, float] | str | None,
    temperature: float,
    schedule: Sequence[Mapping[str, Any]] | None,
    examples_per_step: int,
    sizes: Sequence[int | None],
) -> tuple[Phase, ...]:
    """The phases of a mixture as configured: a part's share is its weight^(1/temperature), divided by their sum.

    Args:
        weights: by part, 1 if not given; `size`: the number of examples.
        schedule: entries of `from_step` and `weights`, in increasing order; `weights` holds before the first.
        examples_per_step: of an optimizer step.
        sizes: the number of examples of each part; None for a stream.

    Raises:
        ConfigError: an unknown part, weights that are negative or nearly 0, a schedule out of order.
    """
    entries = [{"from_step": 0, "weights": weights}, *(schedule or [])]
    phases: list[Phase] = []
    for number, entry in enumerate(entries):
        key = f"mixture.schedule.{number - 1}" if number else "mixture"
        if set(entry) != {"from_step", "weights"} or not isinstance(entry["from_step"], int):
            raise ConfigError(
                f"{key} is {dict(entry)}, and must be {{from_step: STEPS, weights: {{PART: NUMBER}}}}.", key=key
            )
        start = entry["from_step"] * examples_per_step
        shares = _shares(names, entry["weights"], temperature, sizes, f"{key}.weights")
        if start < (phases[-1].start if phases else 0):
            raise ConfigError(f"{key}.from_step is {entry['from_step']}; steps must increase from 0.", key=key)
        if phases and start == phases[-1].start:
            phases.pop()
        phases.append(Phase(start, shares))
    return tuple(phases)


def _shares(
    names: Sequence[str], weights: Any, temperature: float, sizes: Sequence[int | None], key: str
) -> tuple[float, ...]:
    """The share of each part, with sum 1."""
    if weights == "size":
        if None in sizes:
            name = names[list(sizes).index(None)]
            raise ConfigError(f"{key}=size needs numbers of examples, but {name} is a stream. Give weights.", key=key)
        found = [float(size or 0) for size in sizes]
    else:
        given = dict(weights or {})
        if unknown := [name for name in given if name not in names]:
            raise ConfigError(
                f"{key} names {unknown[0]!r}, which is not a part of the mixture: {', '.join(names)}. "
                f"{did_you_mean(nearest_names(unknown[0], names))}".rstrip(),
                key=key,
            )
        found = [float(given.get(name, 1)) for name in names]
    if min(found) < 0 or not sum(found):
        raise ConfigError(
            f"{key} is {dict(zip(names, found, strict=True))}, and must be 0 or more, with one above 0.", key=key
        )
    raised = np.array([weight ** (1 / temperature) if weight else 0.0 for weight in found])
    shares = raised / raised.sum()
    if (small := shares[shares > 0].min()) * BLOCK < 1:
        name = names[int(np.flatnonzero(shares == small)[0])]
        raise ConfigError(
            f"{key} gives {name!r} a share of {small:.2g}. A share must be 0, or at least 1 in {BLOCK:,}.", key=key
        )
    return tuple(shares.tolist())


def part_managers(kind: Callable[..., Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The data sets of a mixture: by name, a set with the fields of the whole and a source or fields of its own.

    Args:
        kind: the class of the data sets.
        fields: of the whole set. It is a mixture if `data_file`, `data_files.train` or `full_name` is a mapping.

    Raises:
        ConfigError: a part has a field that data sets don't have.
    """
    files = fields["data_files"] or {}
    named = fields["data_file"] or fields["full_name"] if fields["data_files"] is None else files.get("train")
    if not isinstance(named, Mapping):
        return {}
    found = {}
    for name, entry in named.items():
        own = dict(entry) if isinstance(entry, Mapping) else {"data_file": entry}
        if unknown := [key for key in own if key not in fields]:
            raise ConfigError(
                f"The part {name!r} of the mixture has the field {unknown[0]!r}, which data sets don't have. "
                f"{did_you_mean(nearest_names(str(unknown[0]), fields))}".rstrip()
            )
        if files and (source := own.pop("data_file", None) or own.pop("full_name", None)):
            own["data_files"] = {**files, "train": source}  # parts are held out of it
        elif not own.keys().isdisjoint(_SOURCES):
            own = {**dict.fromkeys(_SOURCES), "data_files": None, **own}
        found[str(name)] = kind(**{**fields, "mixture": None, **own})
    return found


def check_mixture(managers: Iterable[Any]) -> None:
    """ConfigError if options of a mixture are set, but no training set has parts."""
    found = list(managers)
    if any(getattr(manager, "parts", None) for manager in found):
        return
    for manager in found:
        mixture = getattr(manager, "mixture", None) or {}
        if given := [name for name in ("weights", "schedule") if mixture.get(name) is not None]:
            raise ConfigError(
                f"mixture.{given[0]} is set, but the training data have a single source. "
                "Name the parts: 'data_files.train={NAME: SOURCE, …}'",
                key=f"mixture.{given[0]}",
            )


def joined_content(contents: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The record of a mixture's data from those of its parts; None if all are generated."""
    known = {name: content for name, content in contents.items() if content is not None}
    if not known:
        return None
    return {
        "source": " + ".join(str(content["source"]) for content in known.values()),
        "num_examples": sum(int(content["num_examples"]) for content in known.values()),
        "digest": hash_of({name: content["digest"] for name, content in known.items()}),
    }

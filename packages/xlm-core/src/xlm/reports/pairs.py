"""Paired comparisons: two runs on the same examples, how often each alone is right, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from xlm.reports.predictions import SPLITS, Key, Row, aligned, clusters, predicted_places, read_predictions
from xlm.reports.run import Run
from xlm.reports.statistics import holm, mcnemar, paired_interval


@dataclass(frozen=True)
class Paired:
    """Counts of one pair of runs, the difference of their exact match (first minus second) with its 95 % interval.

    `p` is that of the exact McNemar test, `p_holm` the same adjusted for all pairs of the report.
    """

    place: str
    first: str
    second: str
    both: int
    only_first: int
    only_second: int
    neither: int
    p: float
    p_holm: float = 1.0

    @property
    def n(self) -> int:
        """Examples that both runs answered."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Exact match of the first minus that of the second."""
        return (self.only_first - self.only_second) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference."""
        return paired_interval(self.only_first, self.only_second, self.n)


@dataclass(frozen=True)
class Together:
    """Runs whose predictions of a loader are on the same examples."""

    place: str
    predictions: Mapping[str, Mapping[Key, Row]]


def same_examples(runs: Sequence[Run], split: str | None = None) -> list[Together]:
    """The runs that share examples, by loader: of the test if two or more have predictions there, else of val.

    `split` chooses one of the two.
    """
    files = {run.name: predicted_places(run.folder) for run in runs}
    loaders = sorted({place.split("/")[1] for places in files.values() for place in places})
    found = []
    for loader in loaders:
        for place in (f"{name}/{loader}" for name in ([split] if split else SPLITS)):
            having = [run.name for run in runs if place in files[run.name]]
            if len(having) < min(2, len(runs)):
                continue
            rows = {name: read_predictions(files[name][place]) for name in having}
            found += [Together(place, {name: rows[name] for name in names}) for names in clusters(rows)]
            break
    return [together for together in found if any(together.predictions.values())]


def compare(first: Mapping[Key, Row], second: Mapping[Key, Row], place: str, names: tuple[str, str]) -> Paired | None:
    """Two runs' rows; None where no example with a truth is in both."""
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for a, b in aligned(first, second):
        if a.right is not None and b.right is not None:
            counts[a.right, b.right] += 1
    if not any(counts.values()):
        return None
    both, only_first, only_second, neither = counts.values()
    return Paired(place, *names, both, only_first, only_second, neither, mcnemar(only_first, only_second))


def all_pairs(groups: Sequence[Together]) -> list[Paired]:
    """Every pair of runs that share examples, p-values adjusted for how many there are."""
    found = []
    for group in groups:
        for a, b in combinations(group.predictions, 2):
            if pair := compare(group.predictions[a], group.predictions[b], group.place, (a, b)):
                found.append(pair)
    return [replace(pair, p_holm=p) for pair, p in zip(found, holm([pair.p for pair in found]), strict=True)]

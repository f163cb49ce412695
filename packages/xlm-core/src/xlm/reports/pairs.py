"""Paired comparisons: two runs on the same examples, row by row, and whether their difference is significant."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from xlm.reports.files import read_rows
from xlm.reports.quantities import holm, mcnemar, paired_interval
from xlm.reports.run import Run

SPLITS = ("test", "val")
_ID_KEYS = ("example_id", "id", "index")
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Row:
    """One prediction; `truth` and `right` are None if there is no truth."""

    prompt: str
    prediction: str
    truth: str | None
    right: bool | None


def predicted_places(folder: Path) -> dict[str, Path]:
    """`split/loader` of a run's folder, and the file of its last step."""
    found = {}
    for directory in sorted(folder.glob("predictions/*/*")):
        files = [path for path in directory.glob("step_*.jsonl") if re.fullmatch(r"step_\d+\.jsonl", path.name)]
        if files:
            found[f"{directory.parent.name}/{directory.name}"] = max(files, key=lambda path: int(path.stem[5:]))
    return found


def read_predictions(path: Path) -> dict[Key, Row]:
    """The rows by example: by id if they have one, otherwise by prompt and truth; equal examples are numbered."""
    rows: dict[Key, Row] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for found in read_rows(path):
        row = _row(found)
        if row is None:
            continue
        own = next((str(found[key]) for key in _ID_KEYS if key in found), None)
        example = (row.prompt, row.truth or "") if own is None else (own, "")
        rows[(*example, seen[example])] = row
        seen[example] += 1
    return rows


def aligned(first: Mapping[Key, Row], second: Mapping[Key, Row]) -> list[tuple[Row, Row]]:
    """The pairs of rows for the same example.

    Two families may write prompts differently (with or without masks in a gap): then rows are paired by position if
    all have the same truths in the same order.
    """
    pairs = [(row, second[key]) for key, row in first.items() if key in second]
    truths = _truths(first.values())
    if len(pairs) < len(first) and truths and truths == _truths(second.values()):
        pairs = list(zip(first.values(), second.values(), strict=True))
    return pairs


def clusters(predictions: Mapping[str, Mapping[Key, Row]]) -> list[list[str]]:
    """Groups of names whose rows are for the same examples, in the given order."""
    found: list[list[str]] = []
    for name, rows in predictions.items():
        home = next((names for names in found if aligned(predictions[names[0]], rows)), None)
        if home is None:
            found.append([name])
        else:
            home.append(name)
    return found


def side_by_side(predictions: Sequence[Mapping[Key, Row]], num_examples: int) -> list[list[Row]]:
    """Examples that all have, with a row of each: if possible, the models disagree on half of them."""
    together = [[row] for row in predictions[0].values()]
    for other in predictions[1:]:
        partner = {id(a): b for a, b in aligned(predictions[0], other)}
        together = [[*rows, partner[id(rows[0])]] for rows in together if id(rows[0]) in partner]
    kinds: dict[str, list[list[Row]]] = {"mixed": [], "right": [], "wrong": []}
    for rows in together:
        outcomes = {row.right for row in rows}
        kinds["mixed" if len(outcomes) > 1 else "right" if outcomes == {True} else "wrong"].append(rows)
    quarter = num_examples // 4
    chosen = [*kinds["mixed"][: num_examples - 2 * quarter], *kinds["right"][:quarter], *kinds["wrong"][:quarter]]
    rest = [rows for rows in together if not any(rows is other for other in chosen)]
    return [*chosen, *rest][:num_examples]


def _truths(rows: Iterable[Row]) -> list[str] | None:
    truths = [row.truth for row in rows]
    # Not even one in common: these may be different examples.
    return None if None in truths else [truth or "" for truth in truths]


def _row(found: Mapping[str, Any]) -> Row | None:
    prediction = found.get("prediction", found.get("text"))
    if prediction is None:
        return None
    truth = found.get("truth")
    right = found.get("exact_match")
    if not isinstance(right, bool):
        right = None if truth is None else prediction == truth
    return Row(_text(found.get("prompt", "")), _text(prediction), None if truth is None else _text(truth), right)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Paired:
    """Counts for one pair of runs, and the difference of their exact match (first minus second) with its 95 % interval.

    `p` is from the exact McNemar test; `p_holm` is adjusted for all pairs of the report.
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
    """Runs with predictions of a loader for the same examples."""

    place: str
    predictions: Mapping[str, Mapping[Key, Row]]


def same_examples(runs: Sequence[Run], split: str | None = None) -> list[Together]:
    """The runs that share examples, by loader: of test if two or more runs have predictions there, otherwise of val.

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


def why_no_pairs(runs: Sequence[Run], groups: Sequence[Together], split: str | None = None) -> str:
    """The reason if several runs have no paired comparison, as a sentence; "" for a single run.

    Args:
        runs: the runs of the report.
        groups: of `same_examples` for these runs.
        split: as there.
    """
    if len(runs) < 2:
        return ""
    places = {
        run.name: [place for place in predicted_places(run.folder) if split is None or place.startswith(f"{split}/")]
        for run in runs
    }
    having = [name for name, its in places.items() if its]
    of_split = f" for {split} data" if split else ""
    if len(having) < 2:
        who = f"only {having[0]} has" if having else "none of the runs has"
        return f"{who} predictions{of_split}. `xlm eval` writes them to the run's folder."
    counts = Counter(place for its in places.values() for place in its)
    if max(counts.values()) < 2:
        where = ", ".join(f"{name} in {' and '.join(its)}" for name, its in places.items() if its)
        return f"the runs have predictions in different places: {where}."
    if not any(len(group.predictions) > 1 for group in groups):
        shared = ", ".join(place for place, count in counts.items() if count > 1)
        return f"the predictions in {shared} are for different examples, with different prompts and answers."
    return "the predictions have no correct answers to compare them with (neither truth nor exact_match)."


def compare(first: Mapping[Key, Row], second: Mapping[Key, Row], place: str, names: tuple[str, str]) -> Paired | None:
    """Compare two runs' rows; None if they share no example with a truth."""
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for a, b in aligned(first, second):
        if a.right is not None and b.right is not None:
            counts[a.right, b.right] += 1
    if not any(counts.values()):
        return None
    both, only_first, only_second, neither = counts.values()
    return Paired(place, *names, both, only_first, only_second, neither, mcnemar(only_first, only_second))


def all_pairs(groups: Sequence[Together]) -> list[Paired]:
    """Every pair of runs that share examples, with p-values adjusted for the number of pairs."""
    found = []
    for group in groups:
        for a, b in combinations(group.predictions, 2):
            if pair := compare(group.predictions[a], group.predictions[b], group.place, (a, b)):
                found.append(pair)
    return [replace(pair, p_holm=p) for pair, p in zip(found, holm([pair.p for pair in found]), strict=True)]

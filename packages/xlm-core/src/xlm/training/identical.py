"""Compares two runs to the last bit: weights, optimizer, logged values, results, predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm.reports.files import read_mapping, read_rows
from xlm.training.checkpoints import BEST, LAST
from xlm.training.resume import load_checkpoint
from xlm.training.train_log import read_metrics

# Metrics that are measured with a clock.
TIMED = ("tokens_per_second", "examples_per_second", "samples_per_second", "mfu")
# What a checkpoint holds of the training itself; the rest has paths, times and the configuration.
STATE = ("optimizer_states", "lr_schedulers", "xlm_ema", "xlm_rng")
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Part:
    """One part of two runs.

    Args:
        name: what was compared.
        num_compared: the number of values, tensors or rows in the first run.
        unit: what these are, in the plural.
        differences: one sentence for each kind of difference; empty if the parts are equal.
    """

    name: str
    num_compared: int
    unit: str
    differences: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        return not self.differences


def compare_runs(one: Path, other: Path) -> list[Part]:
    """Compare the folders of two finished runs.

    Raises:
        CheckpointError: a checkpoint is missing or damaged.
    """
    # Together in memory only while they are compared.
    before, after = (load_checkpoint(run / "checkpoints" / LAST) for run in (one, other))
    parts = [_state_part("weights", before, after, ("global_step", "state_dict"))]
    parts.append(_state_part("state of training", before, after, STATE))
    del before, after
    best = one / "checkpoints" / BEST, other / "checkpoints" / BEST
    if best[0].is_file() and best[1].is_file():
        before, after = map(load_checkpoint, best)
        parts.append(_state_part("best weights", before, after, ("global_step", "state_dict")))
        del before, after
    elif best[0].is_file() or best[1].is_file():
        where = one if best[0].is_file() else other
        parts.append(Part("best weights", 0, "tensors", (f"only {where} has {BEST}",)))
    parts.append(_values_part("metrics.csv", _logged(one), _logged(other), lambda key: f"step {key[0]}, {key[1]}"))
    parts.append(_values_part("results.json", _results(one), _results(other), str))
    parts.append(_predictions_part(one, other))
    return parts


def _state_part(name: str, before: Mapping[str, Any], after: Mapping[str, Any], keys: Sequence[str]) -> Part:
    old = {place: value for key in keys if key in before for place, value in _leaves(before[key], key)}
    new = {place: value for key in keys if key in after for place, value in _leaves(after[key], key)}
    differences = list(_only_in_one(old, new))
    changed = [place for place in old.keys() & new.keys() if not _same(old[place], new[place])]
    if changed:
        place, size = max(((place, _distance(old[place], new[place])) for place in sorted(changed)), key=lambda x: x[1])
        largest = "in shape or type" if math.isinf(size) else f"by {size:.2g}"
        differences.append(f"{len(changed)} of {len(old)} differ, at most {largest} ({place})")
    return Part(name, len(old), "tensors and values", tuple(differences))


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}")
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple | Tensor) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}.{index}")
    else:
        yield place, value


def _same(a: Any, b: Any) -> bool:
    """Whether two values have the same bits; NaN equals itself, and -0 differs from 0."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and repr(a) == repr(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))


def _distance(a: Any, b: Any) -> float:
    """The largest absolute difference; infinite if there is none, as between shapes."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
    try:
        return abs(float(a) - float(b))
    except (TypeError, ValueError):
        return math.inf


def _logged(run: Path) -> dict[Any, Any]:
    path = run / "metrics.csv"
    rows = read_metrics(path) if path.is_file() else ()
    return {(step, name): value for step, name, value, _ in rows if not _is_timed(name)}


def _is_timed(name: str) -> bool:
    return name.rpartition("/")[2] in TIMED


def _results(run: Path) -> dict[Any, Any]:
    found = read_mapping(run / "results.json", [])
    kept = {key: found[key] for key in ("step", "metrics", "results", "n") if key in found}
    return {place: value for place, value in _leaves(kept, "") if not any(name in TIMED for name in _names_in(place))}


def _names_in(place: str) -> list[str]:
    return place.replace("/", ".").split(".")


def _values_part(
    name: str, old: Mapping[Any, Any], new: Mapping[Any, Any], show: Callable[[Any], str], unit: str = "values"
) -> Part:
    differences = list(_only_in_one({show(key): None for key in old}, {show(key): None for key in new}))
    changed = [key for key in old if key in new and not _same(old[key], new[key])]
    if changed:
        first = changed[0]
        differences.append(
            f"{len(changed)} of {len(old)} differ, first {show(first).lstrip('.')}: {old[first]!r} → {new[first]!r}"
        )
    return Part(name, len(old), unit, tuple(differences))


def _only_in_one(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for verb, names in (("missing", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        if names:
            shown = ", ".join(name.lstrip(".") for name in sorted(names)[:_MOST_SHOWN])
            more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
            yield f"{verb}: {shown}{more}"


def _predictions_part(one: Path, other: Path) -> Part:
    files = [{p.relative_to(run).as_posix(): p for p in (run / "predictions").rglob("*.jsonl")} for run in (one, other)]
    differences = list(_only_in_one(*files))
    num_rows = 0
    for name in sorted(files[0].keys() & files[1].keys()):
        rows = [list(read_rows(found[name])) for found in files]
        num_rows += len(rows[0])
        if len(rows[0]) != len(rows[1]):
            differences.append(f"{name}: {len(rows[0])} rows → {len(rows[1])}")
            continue
        changed = [index for index, pair in enumerate(zip(*rows, strict=True)) if repr(pair[0]) != repr(pair[1])]
        if changed:
            differences.append(f"{name}: {len(changed)} of {len(rows[0])} rows differ, first row {changed[0] + 1}")
    return Part("predictions", num_rows, "rows", tuple(differences))

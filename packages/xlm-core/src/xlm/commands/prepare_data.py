"""`xlm prepare_data`: downloads or generates all datasets of a run and fills the cache."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from xlm.data.cache import PARTIAL, CacheEntry, DataCache, Stored
from xlm.data.fitting import PROMPT, TEXT
from xlm.data.manager import DatasetManager
from xlm.data.sources import AFTER_NUM_EXAMPLES
from xlm.datamodule import TextDataModule
from xlm.inference.session import start
from xlm.utils import consoles
from xlm.utils.columns import Column

_DONE = {"drop": "dropped", "split": "split", "truncate": "cut", "error": "refused", None: "cut"}
# Of the other data in the cache, the largest are listed.
_MOST_LISTED = 10


class Prepared(NamedTuple):
    """One dataset of a run; `path` is None if it needs no cache.

    Args:
        seconds: what this command took for it.
        num_tokens: of prompts and texts together.
        longest: the number of tokens of the longest prompt and the longest text; None for data without them.
        changed: what happens to examples that don't fit, and the rows that were left out, in words.
    """

    split: str
    name: str
    num_rows: int
    path: Path | None
    built: bool
    seconds: float
    num_tokens: int = 0
    longest: tuple[int | None, int | None] = (None, None)
    changed: str = ""
    num_bytes: int = 0


def run(cfg: DictConfig) -> list[Prepared]:
    """Prepare all splits and print where they are; data that is already cached is only checked."""
    session = start(cfg)
    prepared = prepare(session.datamodule)
    print_table(prepared, session.datamodule.cache_dir, session.console)
    print_others(prepared, session.datamodule.cache_dir, session.console)
    return prepared


def prepare(datamodule: TextDataModule) -> list[Prepared]:
    """Fill the cache for all datasets of `datamodule`."""
    found = []
    for split, managers in datamodule.dataset_managers.items():
        sets = [each for label, whole in managers.items() for each in whole.cached_sets(label).items()]
        for name, manager in sets:
            begun = time.perf_counter()
            entry = datamodule.prepare(manager)
            seconds = time.perf_counter() - begun
            if entry is None:
                num_rows = manager.source_options["num_examples"]
                found.append(Prepared(split, name, num_rows, None, False, seconds))
            else:
                found.append(_described(split, name, manager, entry, seconds))
    return found


def _described(split: str, name: str, manager: DatasetManager, entry: CacheEntry, seconds: float) -> Prepared:
    rows = entry.rows
    counts = {column: rows.num_items(column) for column in (PROMPT, TEXT) if column in rows.column_names}
    longest = [counts[column][1] if column in counts else None for column in (PROMPT, TEXT)]
    changed = [f"{_DONE[manager.too_long]}: {manager.num_too_long:,}"] if manager.num_too_long else []
    changed += [f"{reason}: {count:,}" for reason, count in entry.removed.items() if reason != AFTER_NUM_EXAMPLES]
    num_bytes = sum(file.stat().st_size for file in entry.path.iterdir())
    return Prepared(
        split,
        name,
        len(rows),
        entry.path,
        entry.built,
        seconds,
        sum(total for total, _ in counts.values()),
        (longest[0], longest[1]),
        ", ".join(changed),
        num_bytes,
    )


def print_table(prepared: Sequence[Prepared], cache_dir: Path, console: Console) -> None:
    """Print a line per data set: rows, tokens, the longest, what was changed, size, seconds; then the folders."""
    numbers_of = ("rows", "tokens", "longest", "MB", "seconds")
    titles = ("set", "rows", "tokens", "longest", "changed", "MB", "seconds")
    rows = []
    folders: dict[Path, list[Prepared]] = {}
    for one in prepared:
        tokens = [f"{one.num_tokens:,}", " / ".join(f"{length:,}" for length in one.longest if length is not None)]
        numbers = ["", "", "", ""] if one.path is None else [*tokens, one.changed, _megabytes(one.num_bytes)]
        rows.append([f"{one.split}.{one.name}", f"{one.num_rows:,}", *numbers, f"{one.seconds:.2f}"])
        if one.path is not None:
            folders.setdefault(one.path, []).append(one)
    console.print("Prepared data", style="italic")
    consoles.print_table(console, [Column(title, is_figure=title in numbers_of) for title in titles], rows)
    console.print(f"In {cache_dir.absolute()}:", soft_wrap=True, highlight=False)
    for path, sets in folders.items():
        names = ", ".join(f"{one.split}.{one.name}" for one in sets)
        cached = "" if any(one.built for one in sets) else " (cached)"
        console.print(f"  {path.name}  {names}{cached}", soft_wrap=True, highlight=False)


def print_others(prepared: Iterable[Prepared], cache_dir: Path, console: Console) -> None:
    """Say which other data are in the cache, and what deleting them costs."""
    used = {one.path for one in prepared}
    others = [one for one in DataCache(cache_dir).stored() if one.path not in used]
    console.print(
        "Each of these folders can be deleted while no run uses it: it only costs the time to prepare the data again.",
        soft_wrap=True,
    )
    if not others:
        return
    total = _megabytes(sum(one.num_bytes for one in others))
    console.print(f"Other data in the same place, which can be deleted too: {len(others):,} folders, {total} MB.")
    for one in sorted(others, key=lambda one: -one.num_bytes)[:_MOST_LISTED]:
        console.print(f"  {_line(one)}", soft_wrap=True, highlight=False)
    if len(others) > _MOST_LISTED:
        console.print(f"  and {len(others) - _MOST_LISTED:,} smaller ones")


def _line(one: Stored) -> str:
    day = time.strftime("%Y-%m-%d", time.localtime(one.written))
    kind = ", unfinished: the same data continue from there" if one.path.name.endswith(PARTIAL) else ""
    return f"{one.path.name}  {_megabytes(one.num_bytes)} MB, written {day}{kind}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f}"

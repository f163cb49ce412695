"""`xlm prepare_data`: downloads or generates all datasets of a run and fills the cache."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from xlm.datamodule import TextDataModule
from xlm.inference.session import start


class Prepared(NamedTuple):
    """One dataset of a run; `path` is None if it needs no cache."""

    split: str
    name: str
    num_rows: int
    path: Path | None
    built: bool
    seconds: float


def run(cfg: DictConfig) -> list[Prepared]:
    """Prepare all splits and print where they are; data that is already cached is only checked."""
    session = start(cfg)
    prepared = prepare(session.datamodule)
    print_table(prepared, session.datamodule.cache_dir, session.console)
    return prepared


def prepare(datamodule: TextDataModule) -> list[Prepared]:
    """Fill the cache for all datasets of `datamodule`."""
    found = []
    for split, managers in datamodule.dataset_managers.items():
        sets = [each for label, whole in managers.items() for each in whole.cached_sets(label).items()]
        for name, manager in sets:
            begun = time.perf_counter()
            entry = manager.prepare(datamodule.tokenizer, datamodule.cache_dir, datamodule.num_dataset_workers)
            seconds = time.perf_counter() - begun
            if entry is None:
                num_rows = manager.source_options["num_examples"]
                found.append(Prepared(split, name, num_rows, None, False, seconds))
            else:
                found.append(Prepared(split, name, len(entry.rows), entry.path, entry.built, seconds))
    return found


def print_table(prepared: Iterable[Prepared], cache_dir: Path, console: Console) -> None:
    """Print a line per dataset: split, name, rows, seconds, folder."""
    table = Table(title=f"Prepared data in {cache_dir}", title_justify="left")
    for column in ("split", "name"):
        table.add_column(column)
    for column in ("rows", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("folder", overflow="fold")
    for one in prepared:
        folder = "(in memory)" if one.path is None else f"{one.path.name}{'' if one.built else ' (cached)'}"
        table.add_row(one.split, one.name, f"{one.num_rows:,}", f"{one.seconds:.2f}", folder)
    console.print(table)

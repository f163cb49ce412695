"""Measures a person's own data before a run: rows, amount of text, shares to hold out, lengths in tokens."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from xlm.data.functional import as_messages, nested_value
from xlm.data.locator import Named, locate
from xlm.data.selection import Reading
from xlm.data.sources import FolderSource, Source, place_of
from xlm.errors import DataError, as_line
from xlm.utils.text_files import name_of_kind

# More rows or characters than these are not read only to choose settings.
_MOST_ROWS = 200_000
_MOST_CHARACTERS = 50_000_000
_MOST_ENCODED = 2_000
# Rows to hold out for each part: at least so many if this is not above a fifth, and no more of large data.
_ENOUGH_HELD_OUT, _MOST_HELD_OUT = 25, 2_000
_USUAL_SHARE, _LARGEST_SHARE = 0.05, 0.2
_FEWEST = 3  # one row for each part
_SHOWN = 200
_PLAIN, _READ_TO_CHECK = (".txt", ".csv", ".tsv", ".json", ".jsonl"), 2**16


@dataclass
class Facts:
    """What was measured.

    Args:
        num_bytes: of the texts in UTF-8.
        places: of each row, in [0, 1), from which its part follows.
        is_complete: whether all rows were read.
    """

    name: str
    num_rows: int = 0
    num_bytes: int = 0
    is_complete: bool = True
    places: list[float] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)


def measure(named: Named, columns: Sequence[str], reading: Reading) -> Facts:
    """Read the data, or the first part of large ones.

    Raises:
        DataError: they cannot be read, have no text, or lack a column; the message lists the columns.
    """
    source = locate(named, reading=reading)
    _check_is_text(named)
    facts = Facts(named if isinstance(named, str) else source.name)
    num_characters = 0
    for row in source.rows(None):
        if not facts.num_rows:
            check_columns(row, columns, facts.name)
        if facts.num_rows >= _MOST_ROWS or num_characters > _MOST_CHARACTERS:
            facts.is_complete = False
            break
        facts.num_rows += 1
        texts = list(chain.from_iterable(_texts(nested_value(row, column)) for column in columns))
        num_characters += sum(map(len, texts))
        facts.num_bytes += sum(len(text.encode("utf-8", "replace")) for text in texts)
        facts.places.append(place_of(row))
        facts.rows.append(row)
    if not facts.num_rows:
        raise DataError(as_line(f"{facts.name} is empty: there is no text in it."))
    return facts


def _check_is_text(named: Named) -> None:
    """DataError for a single file of text that holds other bytes."""
    path = Path(named).expanduser() if isinstance(named, str) else Path()
    if not path.is_file() or path.suffix not in _PLAIN:
        return
    with path.open("rb") as file:
        start = file.read(_READ_TO_CHECK)
    if b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(as_line(f"{named} is not a text file, although its name ends in {path.suffix}."))


def check_columns(row: Any, columns: Sequence[str], name: str) -> None:
    """DataError if a row has none of the columns, or lacks one of them."""
    if not isinstance(row, Mapping):
        raise DataError(as_line(f"{name}: a row is {name_of_kind(row)}, not an object with columns."))
    if missing := [column for column in columns if column not in row and nested_value(row, column) is None]:
        has = as_line(", ".join(map(str, row)))[:_SHOWN]
        raise DataError(
            f"{as_line(name)} has no column {' or '.join(missing)}. It has: {has}.\n"
            "Name the column of your texts with columns.text=COLUMN, or those of prompts and answers with "
            "data.prompt=COLUMN data.answer=COLUMN."
        )


def _texts(value: Any) -> Iterable[str]:
    """The texts of a value: itself, or the contents of its messages."""
    value = as_messages(value)
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return (str(each.get("content") or "") for each in value if isinstance(each, Mapping))
    return ()


def shares(facts: Facts, parts: Sequence[str]) -> dict[str, float]:
    """Shares to hold out, so that each part gets rows and some remain for training.

    A twentieth, more of few rows and less of many.

    Raises:
        DataError: there are too few rows.
    """
    if not parts:
        return {}
    usual = min(_USUAL_SHARE, _MOST_HELD_OUT / facts.num_rows)
    share = round(max(usual, min(_LARGEST_SHARE, _ENOUGH_HELD_OUT / facts.num_rows)), 4)
    while share * len(parts) < 1:
        counts = [sum(n * share <= place < (n + 1) * share for place in facts.places) for n in range(len(parts))]
        if all(counts) and sum(counts) < facts.num_rows:
            return dict.fromkeys(parts, share)
        share = round(share + 0.05, 4)
    distinct = len(set(facts.places))
    rows = "1 row with text" if facts.num_rows == 1 else f"{facts.num_rows:,} rows with text"
    if distinct != facts.num_rows:
        rows += f", {distinct:,} of them different"
    raise DataError(
        f"{as_line(facts.name)} has {rows}, which is too little: {' and '.join(parts)} need some that are not trained "
        f"on. Add more (20 is possible, 500 is better), or give data_files.{parts[0]}=FILE."
    )


def lengths(facts: Facts, encode: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, list[int]]:
    """Column of ids → sorted lengths in tokens of rows from the whole of the data."""
    step = math.ceil(facts.num_rows / _MOST_ENCODED)
    found: dict[str, list[int]] = {}
    for row in facts.rows[::step]:
        encoded = encode(row)
        for column in ("prompt_ids", "input_ids"):
            if column in encoded:
                found.setdefault(column, []).append(len(encoded[column]))
    return {column: sorted(each) for column, each in found.items()}


# The names that `datasets` gives to splits, and those of the parts of a run.
_PARTS = {"train": "train", "validation": "val", "test": "test"}


def files_of_splits(named: Any) -> dict[str, str]:
    """Part → name of the data, for a folder with several splits; empty for anything else.

    Raises:
        DataError: the folder has no training split, or files that belong to no split.
    """
    if not isinstance(named, str) or not Path(named).expanduser().is_dir():
        return {}
    source: Source = locate(named)
    if not isinstance(source, FolderSource):
        return _splits_of_saved(named)
    found = source.splits()
    used = {path.resolve() for paths in found.values() for path in paths}
    endings = {path.suffix for path in used}
    others = [
        path for path in sorted(source.folder.rglob("*")) if path.suffix in endings and path.resolve() not in used
    ]
    if others or "train" not in found:
        raise DataError(
            f"The names of the files in {named} are those of splits ({', '.join(found)}), "
            + (f"and {others[0].name} belongs to none." if others else "without train.")
            + f" To use all files: data.text='{Path(named) / '**' / '*'}{min(endings)}'."
        )
    if list(found) == ["train"]:
        return {}
    return {_PARTS[split]: f"{named.rstrip('/')}/{split}" for split in found if split in _PARTS}


def _splits_of_saved(named: str) -> dict[str, str]:
    from xlm.utils.text_files import read_json

    listing = Path(named).expanduser() / "dataset_dict.json"
    splits = read_json(listing).get("splits", []) if listing.is_file() else []
    if splits and "train" not in splits:
        raise DataError(f"{named} has no split train; it has: {', '.join(splits)}. Write {named}/{splits[0]}.")
    return {_PARTS[split]: f"{named.rstrip('/')}/{split}" for split in splits if split in _PARTS}

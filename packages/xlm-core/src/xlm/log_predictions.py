"""Predictions of a pass: written as JSON lines, shown, and scored by an evaluator at the end of the pass."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from xlm import flags
from xlm.decoding.trace import Writing, snapshots
from xlm.errors import ConfigError
from xlm.utils.consoles import plain_console
from xlm.utils.files import writing
from xlm.utils.rank_zero import all_gather_objects, get_rank, warn_once
from xlm.utils.text_files import read_lines

Row = Mapping[str, Any]
WRITERS = ("file", "console")
# Moments during generation that are shown of a text.
_MOMENTS = 5
# Shown first, in this order, if a row has them.
_SHOWN_FIRST = ("prompt", "prediction", "text", "truth", "valid")
_MAX_SHOWN = 600  # characters of one value on the screen


class TokensHook(Protocol):
    """Gets a model's input and output, and may replace the output."""

    def __call__(self, metadata: dict[str, Any], x_in: Tensor, x_out: Tensor) -> Tensor: ...


@dataclass
class _Pass:
    """One dataloader's predictions between `start` and `finish`."""

    split: str
    name: str
    step: int
    path: Path
    num_rows: int = 0
    shown: list[Row] = field(default_factory=list)


class LogPredictions:
    """Writes all predictions as JSON lines (`<directory>/<split>/<dataloader>/step_<n>.jsonl`), and shows a few.

    Per pass: `start` for each dataloader, `add` per batch, `finish` once on every rank. A file gets its final name when
    it is complete; until then its name ends in `.part`. Other ranks write their own files, which rank 0 joins.

    Args:
        num_printed: rows shown per pass and dataloader; 0 shows none.
        max_rows: rows kept per pass and dataloader; None keeps all.
        writers: `file`, `console` or both.
        fields: the only keys that are kept of each row, in this order; None keeps all.
    """

    def __init__(
        self,
        num_printed: int = 2,
        max_rows: int | None = None,
        writers: Sequence[str] = WRITERS,
        fields: Sequence[str] | None = None,
        **ignored: Any,
    ) -> None:
        self.num_printed = num_printed
        self.max_rows = max_rows
        self.writers = tuple(writers)
        self.fields = None if fields is None else tuple(fields)
        self._passes: dict[str, _Pass] = {}
        # Published configurations contain options of other implementations: options without effect here are named once.
        unknown = [*ignored, *(f"writers: {w}" for w in self.writers if w not in WRITERS)]
        if unknown:
            warn_once(f"LogPredictions ignores {', '.join(unknown)}. Writers: {', '.join(WRITERS)}.")

    def start(self, split: str, name: str, step: int, directory: str | Path) -> None:
        """Begin a pass over the dataloader `name`; rows of an unfinished pass stay in its `.part` file."""
        rank = get_rank()
        suffix = f".rank{rank}.jsonl" if rank else ".jsonl"
        path = Path(directory) / split / name / f"step_{step:08d}{suffix}"
        if "file" in self.writers:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _part(path).write_text("", encoding="utf-8")
        self._passes[name] = _Pass(split, name, step, path)

    def add(self, name: str, rows: Iterable[Row]) -> None:
        """Write these rows of the dataloader `name`; they are in the file when this returns."""
        if name not in self._passes:
            begun = ", ".join(self._passes) or "none"
            raise ConfigError(f"add() was called for '{name}' before start(). Started: {begun}.")
        current = self._passes[name]
        kept = [self._chosen(row) for row in rows]
        if flags.DEBUG_PRINT_PREDS and get_rank() == 0:
            plain_console().print(*(_table(row) for row in kept))
        if self.max_rows is not None:
            kept = kept[: max(0, self.max_rows - current.num_rows)]
        current.num_rows += len(kept)
        current.shown += kept[: max(0, self.num_printed - len(current.shown))]
        if "file" in self.writers:
            # Opened for each batch: an interrupted run leaves no open file.
            with writing(current.path), _part(current.path).open("a", encoding="utf-8") as file:
                file.writelines([_line(row) for row in kept])

    def finish(self, show: Callable[[RenderableType], None] | None = None) -> list[Path]:
        """End all passes started on this rank; returns the files. `show` prints (default: a rich console)."""
        passes, self._passes = list(self._passes.values()), {}
        written = [done.path for done in passes] if "file" in self.writers else []
        for path in written:
            with writing(path):
                os.replace(_part(path), path)
        _wait_for_all_ranks()
        if get_rank() == 0:
            for path in written:
                _join_ranks(path, self.max_rows)
            for done in passes:
                if done.shown and "console" in self.writers:
                    (show or plain_console().print)(_titled(done))
        return written

    def write(self, rows: Iterable[Row], split: str, name: str, step: int, directory: str | Path) -> list[Path]:
        """A pass in one call: `start`, `add`, `finish`."""
        self.start(split, name, step, directory)
        self.add(name, rows)
        return self.finish()

    def _chosen(self, row: Row) -> Row:
        return row if self.fields is None else {key: row[key] for key in self.fields if key in row}


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors and numpy arrays
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"Predictor.to_dict must give JSON-able rows, but one holds {type(value).__name__} {value!r}")


def _line(row: Row) -> str:
    return json.dumps(dict(row), ensure_ascii=False, default=_plain) + "\n"


def _wait_for_all_ranks() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _join_ranks(path: Path, max_rows: int | None) -> None:
    """Append the files of the other ranks, in the order of ranks, and remove them."""
    found = path.parent.glob(f"{path.stem}.rank*.jsonl")
    others = sorted(found, key=_rank_of)
    if not others:
        return
    # A killed run with more processes may have left files of higher ranks.
    has_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    joined = [other for other in others if not has_group or _rank_of(other) < torch.distributed.get_world_size()]
    lines = [line.text for part in (path, *joined) for line in read_lines(part)]
    _part(path).write_text("".join(f"{line}\n" for line in lines[:max_rows]), encoding="utf-8")
    os.replace(_part(path), path)
    for other in others:
        other.unlink()


def _rank_of(path: Path) -> int:
    return int(path.stem.rpartition("rank")[2])


def _table(row: Row, title: str | None = None) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    # A text without a prompt has an empty one.
    shown = [key for key in _SHOWN_FIRST if key in row and (key != "prompt" or row[key])] or list(row)
    for key in shown:
        text = str(row[key])
        # As plain text: rich would read [PAD] as markup.
        table.add_row(key, Text(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + " …"))
    if "writing" in row and len(set(row["writing"]["steps"])) > 1:
        table.add_row("written", _written(row["writing"]))
    return table


def _written(record: Writing) -> Text:
    """A text at a few moments, one below the other; new tokens are highlighted."""
    lines = []
    for line in snapshots(record, _MOMENTS):
        text = Text(no_wrap=False)
        for piece, is_new in line:
            text.append(piece, style="bold green" if is_new else "")
        text.truncate(_MAX_SHOWN, overflow="ellipsis")
        lines.append(text)
    return Text("\n").join(lines)


def _titled(done: _Pass) -> Group:
    tables = [_table(row) for row in done.shown]
    at = f", step {done.step}" if done.step else ""  # an evaluation takes no steps
    return Group(Text(f"{done.split}/{done.name}{at}: {len(tables)} of {done.num_rows}"), *tables)


class PostHocEvaluator(Protocol):
    """Scores all predictions together; may add fields to the rows.

    Optional methods: `mark(rows) -> rows` scores the rows of one batch, before they are written; `errors(predictions)
    -> {name: (rows, standard error)}`.
    """

    def eval(self, predictions: list[Row], tokenizer: Any = None) -> tuple[list[Row], dict[str, float]]: ...


class PostHocPasses:
    """Collects the rows of each prediction loader of a pass, on all ranks, and lets the evaluator score them.

    Args:
        evaluator: None collects nothing.
    """

    def __init__(self, evaluator: PostHocEvaluator | None) -> None:
        self.evaluator = evaluator
        self._rows: dict[str, list[Row]] = {}
        self._gathered: dict[str, list[Row]] | None = None

    def add(self, name: str, rows: list[Row]) -> list[Row]:
        """Store the rows of one batch; returns them, scored if the evaluator scores single rows."""
        if self.evaluator is not None:
            mark = getattr(self.evaluator, "mark", None)
            rows = rows if mark is None else mark(rows)
            self._rows.setdefault(name, []).extend(rows)
        return rows

    def errors(self) -> dict[str, tuple[int, float]]:
        """`loader/name` → rows and standard error, where the evaluator knows it; the same on every rank."""
        found = getattr(self.evaluator, "errors", None)
        if found is None:
            return {}
        return {
            f"{loader}/{name}": error
            for loader, rows in self._everywhere().items()
            for name, error in found(rows).items()
        }

    def finish(self, tokenizer: Any) -> dict[str, float]:
        """`loader/name` → number, the same on every rank; clears the rows."""
        values: dict[str, float] = {}
        if self.evaluator is not None:
            for loader, rows in self._everywhere().items():
                _, numbers = self.evaluator.eval(rows, tokenizer=tokenizer)
                values |= {f"{loader}/{name}": float(number) for name, number in numbers.items()}
        self._rows, self._gathered = {}, None
        return values

    def _everywhere(self) -> dict[str, list[Row]]:
        """The rows of all ranks by loader, gathered once."""
        if self._gathered is None:
            ranks = all_gather_objects(self._rows)
            loaders = dict.fromkeys(loader for part in ranks for loader in part)
            self._gathered = {loader: [row for part in ranks for row in part.get(loader, ())] for loader in loaders}
        return self._gathered

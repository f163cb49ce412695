"""Progress in a terminal or a log file, and the table of results at the end of a job."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from xlm.training.notebook_progress import NotebookBar
from xlm.training.train_log import TrainLog
from xlm.utils.columns import Column, lines_of_parts
from xlm.utils.consoles import is_notebook, plain_console, print_table, width_of
from xlm.utils.files import replace_text


class ProgressDisplay(Callback):
    """Shows step, loss, learning rate and tokens/s, and the results of each validation as a permanent line.

    Args:
        train_log: provides the newest training values.
        seconds_between_lines: the interval of plain lines if the output is not a terminal.
        console: the output; standard output by default.
    """

    def __init__(
        self, train_log: TrainLog, seconds_between_lines: float = 10.0, console: Console | None = None
    ) -> None:
        self.train_log = train_log
        self.seconds_between_lines = seconds_between_lines
        self.console = console or plain_console(soft_wrap=not sys.stdout.isatty())
        self._bar: _TerminalBar | NotebookBar | None = None
        self._last_line = 0.0
        self._last_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if trainer.global_step:
            self.console.print(f"Resuming from step {trainer.global_step}.")
        total = trainer.max_steps if trainer.max_steps > 0 else None
        if is_notebook():
            self._bar = NotebookBar(total, trainer.global_step)
        elif self.console.is_terminal:
            self._bar = _TerminalBar(self.console, total, trainer.global_step)
        self._last_line = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero or trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        values = describe(self.train_log.latest)
        if self._bar is not None:
            self._bar.update(trainer.global_step, describe(self.train_log.latest, self._bar.width))
        elif values and time.monotonic() - self._last_line >= self.seconds_between_lines:
            self._last_line = time.monotonic()
            of = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
            self.console.print(f"step {trainer.global_step}{of}  {values}", highlight=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if metrics:
            parts = [f"step {trainer.global_step}", *(f"{k} {v:.4g}" for k, v in sorted(metrics.items()))]
            lines = lines_of_parts(parts, width_of(self.console), gap="  ")
            self.console.print("\n".join(lines), highlight=False)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()


# Columns of the line of progress: without the bar from here on; what `step`, `/` and two times take; the bar.
_WIDTH_OF_A_BAR = 110
_TIMES = len("step / 0:00:00 0:00:00 ") + len("1 day, ")
_BAR = 21


class _TerminalBar:
    """Step, bar, times and newest values of a run, in the last line of a terminal."""

    def __init__(self, console: Console, total: int | None, completed: int) -> None:
        has_bar = console.width >= _WIDTH_OF_A_BAR
        #: Columns that the values may take.
        self.width: int | None = console.width - _TIMES - 2 * len(str(total or completed)) - (_BAR if has_bar else 0)
        # The values beside the bar matter more: in a narrow terminal there is none.
        bar = [BarColumn(bar_width=20)] if has_bar else []
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            *bar,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("train", total=total, completed=completed, values="")
        self._progress.start()

    def update(self, completed: int, values: str) -> None:
        """Show another step and its values."""
        self._progress.update(self._task, completed=completed, values=values)

    def stop(self) -> None:
        """Leave the line as it is."""
        self._progress.stop()


def describe(values: dict[str, float], width: int | None = None) -> str:
    """The values that fit next to a bar: loss, learning rate, tokens per second, share of padding."""
    parts = [f"loss {v:.4f}" for k, v in values.items() if k.endswith("/accumulated_loss")][:1]
    if "train/lr" in values:
        parts.append(f"lr {values['train/lr']:.2e}")
    if "train/tokens_per_second" in values:
        parts.append(f"{values['train/tokens_per_second']:,.0f} tokens/s")
    if "train/padding" in values:
        parts.append(f"{values['train/padding']:.0%} padding")
    while width is not None and len("  ".join(parts)) > width and parts:
        parts.pop()
    return "  ".join(parts)


class EvaluationProgress(Callback):
    """Reports the progress of an evaluation in a line every few seconds."""

    def __init__(self, seconds_between_lines: float = 10.0, console: Console | None = None) -> None:
        self.seconds_between_lines = seconds_between_lines
        self.console = console or plain_console(soft_wrap=not sys.stdout.isatty())
        self._last_line = time.monotonic()

    def _say(self, trainer: Trainer, batch_idx: int, sizes: Any, dataloader_idx: int) -> None:
        if not trainer.is_global_zero or time.monotonic() - self._last_line < self.seconds_between_lines:
            return
        self._last_line = time.monotonic()
        size = sizes[dataloader_idx] if isinstance(sizes, list) else sizes
        self.console.print(f"loader {dataloader_idx}: batch {batch_idx + 1}/{size}", highlight=False)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._say(trainer, batch_idx, trainer.num_test_batches, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._say(trainer, batch_idx, trainer.num_val_batches, dataloader_idx)


def print_results(
    title: str,
    metrics: Mapping[str, float],
    counts: Mapping[str, int],
    console: Console,
    results: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """One row per metric, with the number of examples, and the standard error if `results` has it."""
    columns = [Column("metric"), Column("value", is_figure=True)]
    columns += [] if results is None else [Column("± s.e.", is_figure=True)]
    rows = []
    for key, value in metrics.items():
        n = counts.get("/".join(key.split("/", 2)[:2]))
        error = None if results is None else results.get(key, {}).get("se")
        errors = [] if results is None else ["" if error is None else figure(error)]
        rows.append([key, figure(value), *errors, "" if n is None else f"{n:,}"])
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    print_table(console, [*columns, Column("n", is_figure=True)], rows)


def figure(value: float) -> str:
    """A number with four decimals, or in scientific notation if those would show nothing of it."""
    return f"{value:.3e}" if 0 < abs(value) < 0.0005 or 1e9 <= abs(value) < math.inf else f"{value:.4f}"


def write_results(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a record as JSON, replacing the file atomically."""
    return replace_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

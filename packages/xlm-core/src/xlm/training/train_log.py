"""Logs of a training run: metrics, learning rate, throughput, cost, and loggers that survive a stop."""

from __future__ import annotations

import csv
import io
import resource
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from xlm.training.flops import FirstForward, Shape, matmul_dtype, matmul_peak
from xlm.utils.files import replace_text, writing
from xlm.utils.text import csv_cell
from xlm.utils.text_files import readable_rows


@runtime_checkable
class MetricSource(Protocol):
    """A module that returns and resets its metrics."""

    def pop_metrics(self, stage: str) -> dict[str, float]: ...


class TrainLog(Callback):
    """Sends `train/…` values to the loggers, and keeps the newest of each in `latest` for the progress display.

    Tokens per second count real tokens, without padding. Validation and checkpoints do not count as time. Sums stay on
    the device and are read only here, so the steps in between never wait for it.

    `train/padding` is the share of computed positions whose attention mask is off. `train/mfu` is the number of
    operations in the model's matrix products per second (counted once, see `FlopTally`), divided by the peak that the
    device reaches for matrix products at the first logged step; the time includes data loading. Both are for this
    process. There is no mfu with `compile=true`, where operators are not visible, or for a model without matrix
    products.
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self._forward: FirstForward | None = None
        self._peak: float | None = None
        self._last_step = 0
        # Tokens and seconds of everything logged, including earlier starts of the run.
        self.totals = (0.0, 0.0)
        self._reset()

    def _reset(self) -> None:
        self._tokens: torch.Tensor | int = 0
        self._shape = Shape()
        self._has_masks = True
        self._examples = 0
        self._seconds = 0.0
        self._started: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        config: Any = getattr(pl_module, "config", None) or {}
        if not config.get("compile"):
            self._forward = FirstForward()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._started is None:
            self._started = time.perf_counter()
        if self._forward is not None:
            self._forward.begin()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        if self._forward is not None:
            self._forward.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._forward is not None:
            self._forward.end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def _pause(self) -> None:
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    @property
    def tokens_per_second(self) -> float | None:
        """The mean over the whole run so far; None before the first value is logged."""
        tokens, seconds = self.totals
        return tokens / seconds if seconds else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        parts = list(batches_of(batch))
        for part in parts:
            self._tokens = self._tokens + _tokens_of(part)
            self._has_masks &= part.get("attention_mask") is not None
            self._examples += part["input_ids"].shape[0]
        shape = Shape.of(parts)
        self._shape += shape
        if self._forward is not None:
            self._forward.settle(shape)
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self._last_step or not every or step % every:  # 0: nothing is ever logged
            return
        self._last_step = step
        assert isinstance(pl_module, MetricSource)
        values = pl_module.pop_metrics("train")  # reading them waits for the device, so the clock stops after it
        self._pause()
        values["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        tokens, seconds = self.totals
        self.totals = tokens + float(self._tokens) * trainer.world_size, seconds + self._seconds
        if self._seconds > 0:
            values["train/tokens_per_second"] = float(self._tokens) * trainer.world_size / self._seconds
            values["train/examples_per_second"] = self._examples * trainer.world_size / self._seconds
        values |= self._utilisation(pl_module.device, str(trainer.precision))
        self._reset()
        self.latest.update(values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)

    def counts(self) -> dict[str, Any]:
        """What has been counted since the last logged step, with `latest`; does not wait for the device."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return {
            "latest": dict(self.latest),
            "tokens": self._tokens,
            "shape": [self._shape.positions, self._shape.pairs],
            "has_masks": self._has_masks,
            "examples": self._examples,
            "seconds": self._seconds + running,
        }

    def load_counts(self, counts: dict[str, Any]) -> None:
        """Continue from what `counts` returned."""
        self.latest = dict(counts["latest"])
        self._tokens, self._examples = int(counts["tokens"]), counts["examples"]
        self._shape, self._has_masks = Shape(*counts["shape"]), counts["has_masks"]
        self._seconds = counts["seconds"]

    def _utilisation(self, device: torch.device, precision: str) -> dict[str, float]:
        """`train/padding` and `train/mfu` since the last logged step, if known."""
        values: dict[str, float] = {}
        if self._shape.positions and self._has_masks:
            values["train/padding"] = 1 - float(self._tokens) / self._shape.positions
        flops = None if self._forward is None else self._forward.flops
        if flops is not None and self._seconds > 0:
            if self._peak is None:  # a quarter of a second, which runs that log nothing don't need
                self._peak = matmul_peak(device, matmul_dtype(precision))
            values["train/mfu"] = flops.of(self._shape) / self._seconds / self._peak
        return values


def num_tokens(batch: Any) -> int:
    """The tokens of a training batch without padding; 0 if it has no `input_ids`."""
    return sum(int(_tokens_of(part)) for part in batches_of(batch))


def _tokens_of(part: dict[str, Any]) -> torch.Tensor | int:
    ids, mask = part["input_ids"], part.get("attention_mask")
    return ids.numel() if mask is None else (mask != 0).sum()


def batches_of(batch: Any) -> Iterator[dict[str, Any]]:
    """The dicts of tensors in a training batch: the batch, or one per train loader."""
    if not isinstance(batch, dict):
        return
    if isinstance(batch.get("input_ids"), torch.Tensor):
        yield batch
        return
    for part in batch.values():
        yield from batches_of(part)


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class TrainingCost(Callback):
    """Clocks around fit, including validation and earlier starts of the run up to their checkpoint."""

    def __init__(self, train_log: TrainLog) -> None:
        self.train_log = train_log
        self._started: tuple[float, float] | None = None
        self._device = torch.device("cpu")
        # CPU and wall seconds before this start.
        self._earlier = (0.0, 0.0)
        # Peak bytes of earlier starts.
        self._earlier_peak = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = pl_module.device
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._started = time.process_time(), time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._earlier, self._started = self._seconds(), None

    def _seconds(self) -> tuple[float, float]:
        """CPU and wall seconds so far."""
        cpu, wall = self._earlier
        if self._started is None:
            return cpu, wall
        return cpu + time.process_time() - self._started[0], wall + time.perf_counter() - self._started[1]

    def state_dict(self) -> dict[str, Any]:
        cpu, wall = self._seconds()
        peak = max(self._earlier_peak, peak_memory(self._device))
        return {
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "throughput": self.train_log.totals,
            "peak_memory": peak,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = state_dict["cpu_seconds"], state_dict["wall_seconds"]
        self.train_log.totals = state_dict["throughput"]
        self._earlier_peak = state_dict["peak_memory"]

    def as_dict(self, device: torch.device) -> dict[str, Any]:
        """`cpu_seconds` (sum over threads of this process), `wall_seconds`, `tokens_per_second`, `peak_memory_mib`.

        Memory is that of the device or, on a CPU, of the whole process.
        """
        cpu, wall = self._seconds()
        tokens_per_second = self.train_log.tokens_per_second
        return {
            "cpu_seconds": round(cpu, 1),
            "wall_seconds": round(wall, 1),
            "tokens_per_second": None if tokens_per_second is None else round(tokens_per_second, 1),
            "peak_memory_mib": round(max(self._earlier_peak, peak_memory(device)) / 2**20, 1),
        }


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on a CUDA device since its counter was reset, otherwise the peak memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


FIELDS = ("step", "name", "value", "time")
Row = tuple[int, str, float, str]


class CSVMetrics(Logger):
    """`metrics.csv` with one row per value: step, name, value, seconds since the epoch.

    The long format needs no rewriting when a new metric appears, so a kill loses at most the row being written;
    `drop_after` drops the rows after the step from which a run resumes.
    """

    def __init__(self, save_dir: str, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.path = Path(save_dir) / filename

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the composed config has its own file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = f"{time.time():.3f}"
        with writing(self.path):
            self._append(metrics, step, now)

    def _append(self, metrics: Mapping[str, float], step: int | None, now: str) -> None:
        is_new = not self.path.exists()
        if is_new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(FIELDS)
            writer.writerows(
                (step, csv_cell(name), repr(float(value)), now) for name, value in metrics.items() if name != "epoch"
            )

    @rank_zero_only
    def drop_after(self, step: int, validations: int | None = None) -> None:
        """Keep the rows up to and including a step, and of that step's validations the first few (None: all)."""
        seen: Counter[str] = Counter()

        def stays(row: Row) -> bool:
            if row[0] == step and validations is not None and row[1].startswith("val/"):
                seen[row[1]] += 1
                return seen[row[1]] <= validations
            return row[0] <= step

        self._keep(stays)

    @rank_zero_only
    def drop_tests(self) -> None:
        """Remove the rows of an earlier test, which is about to be repeated."""
        self._keep(lambda row: not row[1].startswith("test/"))

    def _keep(self, stays: Callable[[Row], bool]) -> None:
        if not self.path.exists():
            return
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(FIELDS)
        writer.writerows(
            (s, name, repr(value), when) for s, name, value, when in filter(stays, read_metrics(self.path))
        )
        replace_text(self.path, text.getvalue())


def read_metrics(path: Path) -> Iterator[Row]:
    """The rows of a `metrics.csv`; damaged ones, such as an incomplete last line, are skipped."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in readable_rows(file):
            try:
                step, name, value, when = row
                found = int(step), name, float(value), when
            except ValueError:  # also the line with the names of the columns
                continue
            if found[0] >= 0:
                yield found


_LOG_KEY = "xlm_log"


class LogTruncation(Callback):
    """Drops logged rows of steps that a resumed run repeats, and all rows if a run starts from scratch.

    With accumulated gradients, several validations may have the same step. A resumed run repeats those after later
    batches, so a checkpoint counts the ones that came right after its step.
    """

    def __init__(self) -> None:
        self._resumed = False
        self._step = -1
        self._validations = 0
        # Whether a batch has started since the last step.
        self._went_on = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step, self._went_on = trainer.global_step, True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step != self._step:
            self._validations, self._went_on = 0, False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and not self._went_on:
            self._validations += 1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_LOG_KEY] = {"validations": self._validations}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed, self._went_on = True, False
        # The harness has corrected the counters by now (see `xlm.training.resume`).
        counts = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
        is_due = counts["ready"] > counts["completed"]
        before = checkpoint.get(_LOG_KEY, {}).get("validations", 0 if is_due else None)  # older ones have no count
        self._validations = before or 0
        self._drop(trainer, checkpoint["global_step"], before)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in on_fit_start: a sharded run loads its checkpoint after that.
        if not self._resumed:
            self._drop(trainer, -1, None)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVMetrics):
                logger.drop_tests()

    @staticmethod
    def _drop(trainer: Trainer, step: int, validations: int | None) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVMetrics):
                logger.drop_after(step, validations)
            elif isinstance(logger, TensorBoardMetrics):
                logger.hide_after(step)


def _hide_tracebacks_of_the_writer() -> None:
    """TensorBoard's thread prints an error of the disk as a traceback, before it raises it in the main thread."""
    before = threading.excepthook

    def hook(found: threading.ExceptHookArgs) -> None:
        if type(found.thread).__name__ != "_AsyncWriterThread" or not isinstance(found.exc_value, OSError):
            before(found)

    if getattr(before, "__module__", "") != __name__:
        threading.excepthook = hook


class TensorBoardMetrics(TensorBoardLogger):
    """TensorBoard event files in `<run>/tensorboard`."""

    def __init__(self, save_dir: str, **kwargs: Any) -> None:
        super().__init__(save_dir=save_dir, name="tensorboard", version="", **kwargs)
        _hide_tracebacks_of_the_writer()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the composed config has its own file."""

    def hide_after(self, step: int) -> None:
        """Let TensorBoard hide the events that an earlier start of the run wrote for later steps."""
        self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def save(self) -> None:
        """Write pending events, but no file of hyperparameters."""
        with writing(self.log_dir):
            self.experiment.flush()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with writing(self.log_dir):
            super().log_metrics(metrics, step)

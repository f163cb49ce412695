"""`debug=profile`: where the time of a training step goes, by phase and by operation, with a trace to look at."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from xlm.errors import ConfigError
from xlm.utils.consoles import plain_console
from xlm.utils.files import replace_text

Steps = Annotated[int, Ge(1)]
TRACE = "profile_trace.json"
PHASES: Mapping[str, str] = {
    "data": "waiting for the next batch",
    "forward": "network and loss",
    "backward": "gradients",
    "optimizer": "clipping, update, averages, logging",
}
_MOST_OPERATIONS = 12
_NOTES = re.compile(r"ActivityProfiler\w*\.cpp|Memory block of unknown size was allocated before the profiling")
_WARMUP = 1
# A larger share of the time than this in `data` is worth a worker.
_MUCH = 0.15


@dataclass(frozen=True)
class Operation:
    """One kind of operation: per step, calls, milliseconds and MiB, its own without those of what it calls."""

    name: str
    calls: float
    cpu_ms: float
    device_ms: float
    memory_mib: float


class StepProfiler(Callback):
    """Times the phases of some batches, then records others with torch's profiler, and ends the run.

    The phases are timed without the profiler, which slows down small operations, and with the device synchronized at
    their borders. Results: `profile.json`, and `profile_trace.json` for https://ui.perfetto.dev.

    Args:
        folder: where they are written.
        num_warmup_steps: batches before measuring: compilation, caches.
        num_timed_steps: batches to time.
        num_traced_steps: batches to record; a trace has about a megabyte for each.
    """

    def __init__(
        self, folder: str, num_warmup_steps: Steps = 5, num_timed_steps: Steps = 10, num_traced_steps: Steps = 3
    ) -> None:
        self.folder = Path(folder)
        self.num_warmup, self.num_timed, self.num_traced = num_warmup_steps, num_timed_steps, num_traced_steps
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._batches = 0
        self._since: float | None = None
        self._profiler: Any = None
        self._recording = ExitStack()
        self._region: Any = None
        self._device = torch.device("cpu")

    @property
    def _is_timing(self) -> bool:
        return self.num_warmup <= self._batches < self.num_warmup + self.num_timed

    def _enter(self, phase: str | None, finished: str | None) -> None:
        """End a phase and begin the next one."""
        if self._device.type == "cuda" and (self._is_timing or self._since is not None):
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if finished is not None and self._since is not None:
            self.seconds[finished] += now - self._since
        self._since = now if self._is_timing else None
        if self._region is not None:
            self._region.__exit__(None, None, None)
            self._region = None
        if self._profiler is not None and phase is not None:
            self._region = record_function(f"## {phase} ##")
            self._region.__enter__()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = pl_module.device
        needed = self.num_warmup + self.num_timed + _WARMUP + self.num_traced
        if 0 < trainer.max_steps * trainer.accumulate_grad_batches < needed:
            raise ConfigError(
                f"debug=profile needs {needed} batches, but trainer.max_steps={trainer.max_steps} makes "
                f"{trainer.max_steps * trainer.accumulate_grad_batches}. Set a larger trainer.max_steps.",
                key="trainer.max_steps",
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._enter("forward", "data")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self._enter("backward", "forward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter("optimizer", "backward")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._enter(None, "optimizer")
        self._batches += 1
        done = self._batches - self.num_warmup - self.num_timed
        if done == 0:
            self._since = None
            self._start()
        self._enter("data", None)
        if done == _WARMUP + self.num_traced:
            self._finish(trainer)
        elif done > 0:
            self._profiler.step()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        activities += [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        # The first recorded step is left out: the profiler itself starts in it.
        steps = schedule(wait=0, warmup=_WARMUP, active=self.num_traced)
        self._profiler = profile(activities=activities, schedule=steps, record_shapes=True, profile_memory=True)
        self._recording.enter_context(without_notes())
        self._recording.enter_context(self._profiler)

    def _finish(self, trainer: Trainer) -> None:
        self._enter(None, None)
        self._recording.close()
        trainer.should_stop = True
        if trainer.is_global_zero:
            self._write()
        self._profiler = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._recording.close()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._profiler.export_chrome_trace(str(self.folder / TRACE))
        operations = self._operations()
        phases = {name: seconds / self.num_timed for name, seconds in self.seconds.items()}
        record = {
            "device": str(self._device),
            "seconds_per_batch": phases,
            "operations_per_batch": [asdict(operation) for operation in operations],
        }
        replace_text(self.folder / "profile.json", json.dumps(record, indent=2) + "\n")
        console = plain_console(soft_wrap=True)
        print_profile(phases, operations, self._device.type == "cuda", console)
        console.print(
            f"The trace is {self.folder / TRACE}: open it at https://ui.perfetto.dev, or in chrome://tracing. "
            "The numbers are in profile.json.",
            highlight=False,
        )

    def _operations(self) -> list[Operation]:
        """The operations with the most time of their own on the device, or on the CPU without one."""
        n, mib = self.num_traced, 2**20
        found = [
            Operation(
                event.key,
                event.count / n,
                event.self_cpu_time_total / 1e3 / n,
                event.self_device_time_total / 1e3 / n,
                (event.self_device_memory_usage or event.self_cpu_memory_usage) / mib / n,
            )
            for event in self._profiler.key_averages()
            if not event.key.startswith(("##", "ProfilerStep"))
        ]
        on_device = self._device.type == "cuda"
        found.sort(key=lambda operation: operation.device_ms if on_device else operation.cpu_ms, reverse=True)
        return found[:_MOST_OPERATIONS]


@contextmanager
def without_notes() -> Iterator[None]:
    """Leave out what torch's profiler itself prints to standard error; other lines appear at the end of the block."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            lines = held.read().decode(errors="replace").splitlines()
            sys.stderr.writelines(f"{line}\n" for line in lines if not _NOTES.search(line))


def print_profile(phases: Mapping[str, float], operations: list[Operation], on_device: bool, console: Console) -> None:
    """Print two tables, and what the shares of the phases suggest."""
    total = sum(phases.values()) or 1.0
    table = Table(title=f"Where the {1e3 * total:.1f} ms of a batch go", title_justify="left")
    for name in ("phase", "what it is"):
        table.add_column(name)
    for name in ("ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, seconds in phases.items():
        table.add_row(name, PHASES[name], f"{1e3 * seconds:.2f}", f"{seconds / total:.0%}")
    console.print(table)
    table = Table(title="Operations with the most time of their own, per batch", title_justify="left")
    table.add_column("operation", max_width=34, overflow="ellipsis", no_wrap=True)
    for name in ("calls", "CPU ms", *(["GPU ms"] if on_device else []), "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in operations:
        device = [f"{one.device_ms:.2f}"] if on_device else []
        table.add_row(one.name, f"{one.calls:.0f}", f"{one.cpu_ms:.2f}", *device, f"{one.memory_mib:.1f}")
    console.print(table)
    console.print(advice(phases), highlight=False)


def advice(phases: Mapping[str, float]) -> str:
    """What takes most of the time, and what would change it."""
    total = sum(phases.values()) or 1.0
    largest = max(phases, key=phases.__getitem__)
    line = f"Most of the time is in {largest} ({PHASES[largest]}): {phases[largest] / total:.0%}."
    if phases["data"] / total > _MUCH:
        share = f"{phases['data'] / total:.0%}"
        line += f" The network waits for data {share} of the time: set num_dataloader_workers=2 or more."
    elif largest in ("forward", "backward"):
        line += " Lower precision, compile=true or batches without padding (batching=buckets) make these faster."
    return line

"""Reasons to stop a run: a loss that is not finite, signals, closed output, a monitored metric that is never logged."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xlm.errors import ConfigError, NonFiniteLossError, did_you_mean, nearest_names
from xlm.metrics import MetricWrapper
from xlm.utils.closed_output import watching_output
from xlm.utils.rank_zero import RankedLogger, is_first_process
from xlm.utils.slurm import warning_signals


class FiniteLossGuard(Callback):
    """Records on the device the first step whose loss was not finite, and reads it when values are logged anyway.

    `check()` is also called before a checkpoint is written, so that no checkpoint contains weights changed by such a
    loss.
    """

    def __init__(self) -> None:
        self._first_bad: torch.Tensor | None = None
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, torch.Tensor):
            return
        if self._first_bad is None or self._first_bad.device != loss.device:
            self._first_bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        is_new = ~torch.isfinite(loss.detach()) & (self._first_bad < 0)
        self._first_bad = torch.where(is_new, trainer.global_step, self._first_bad)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = trainer.global_step
        # Not for every batch of an accumulation. every=0: nothing is ever logged.
        if every and step != self._last_step and step % every == 0:
            self.check()
        self._last_step = step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.check()

    def check(self) -> None:
        """Raise `NonFiniteLossError` if a loss since the start was infinite or not a number."""
        if self._first_bad is not None and (step := int(self._first_bad)) >= 0:
            self._first_bad = None  # reported once; raising already prevents the checkpoint
            raise NonFiniteLossError(step)


# A closed terminal; Windows has no such signal.
_HANGUP: int | None = getattr(signal, "SIGHUP", None)
_CLOSED = (_HANGUP, getattr(signal, "SIGPIPE", None))


class GracefulSignals:
    """While entered, a first SIGINT or SIGTERM only sets `received`; a second one ends the process at once.

    A closed terminal (SIGHUP) and a closed pipe (as SIGPIPE) set it too, any number of times. So do SIGUSR1 and SIGUSR2
    in a SLURM batch job, which announce its end; `received` then stays that signal, whatever follows. The training loop
    reads `received` after each step (see `LastCheckpoint`).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self._warnings: tuple[int, ...] = ()
        self._before: dict[int, Any] = {}
        self._watch: contextlib.AbstractContextManager[None] = contextlib.nullcontext()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum in self._warnings or self.received in self._warnings:
            if self.received not in self._warnings:
                self.received = signum
                print(f"{signal.Signals(signum).name}: stopping after this step.", file=sys.stderr, flush=True)
            return
        if signum == _HANGUP and self.received is not None:
            return  # the system and the shell both send it
        if self.received not in (None, *_CLOSED):
            self._release()
            raise KeyboardInterrupt
        self.received = signum
        if is_first_process():
            advice = "" if signum == _HANGUP else " Press Ctrl-C again to stop at once."
            with contextlib.suppress(OSError, RuntimeError):  # the terminal is gone, or was being written to
                print(f"\nStopping after this step.{advice}", file=sys.stderr, flush=True)

    def _note_closed_output(self) -> None:
        if self.received is None:
            self.received = signal.SIGPIPE

    def __enter__(self) -> GracefulSignals:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python handles signals in the main thread only
        self._warnings = warning_signals(os.environ)
        # nohup ignores it, so that a run outlives its terminal.
        hangup = () if _HANGUP is None or signal.getsignal(_HANGUP) is signal.SIG_IGN else (_HANGUP,)
        for signum in (*self.SIGNALS, *hangup, *self._warnings):
            self._before[signum] = signal.signal(signum, self._note)
        self._watch = watching_output(self._note_closed_output)
        self._watch.__enter__()
        return self

    def hold(self) -> None:
        """Handle the signals again, after Lightning has put its own handlers before these.

        Lightning's handler of SIGTERM calls a collective operation in the middle of a step, which hangs if other ranks
        are in another one.
        """
        for signum in self._before:
            signal.signal(signum, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, trace)
        self._release()

    def _release(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()


@contextlib.contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP raise an exception that ends the process, so that resources are released."""
    is_ours = threading.current_thread() is threading.main_thread()
    signums = [signum for signum in (signal.SIGTERM, _HANGUP) if signum is not None]
    taken = [signum for signum in signums if is_ours and signal.getsignal(signum) is signal.SIG_DFL]
    for signum in taken:
        signal.signal(signum, _end)
    try:
        yield
    finally:
        for signum in taken:
            signal.signal(signum, signal.SIG_DFL)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


log = RankedLogger(__name__, rank_zero_only=True)

_TRAIN = "train/"
# Parts of the names of metrics whose class doesn't say whether higher is better.
_LOWER = ("loss", "nll", "perplexity", "ppl", "bpb", "bpd", "error", "network_calls")
_HIGHER = ("accuracy", "exact_match", "f1", "bleu", "rouge", "precision", "recall")


class MonitoredMetric(Callback):
    """Checks the metrics that the callbacks of a run monitor.

    The configuration contains the names of metrics, but losses and models may log others. A name that is not in the
    configuration is looked up after one batch of each validation loader, before training.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = {metric.full_name(place): metric for place, metric in _metrics(pl_module)}
        for callback in _monitoring(trainer):
            if callback.monitor not in known and not trainer.num_sanity_val_steps:
                trainer.num_sanity_val_steps = 1
            better = _better(callback.monitor, known.get(callback.monitor))
            if better is not None and better != callback.mode:
                key = _mode_key(pl_module, callback)
                wanted, other = ("lowest", "higher") if callback.mode == "min" else ("highest", "lower")
                log.warning(
                    f"{key}={callback.mode} keeps the {wanted} {callback.monitor}, but {other} is better. "
                    f"Did you mean {key}={better}?"
                )

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run has no validation before its first step.
        if not trainer.sanity_checking:
            self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        there = [str(name) for name in trainer.callback_metrics]
        for callback in _monitoring(trainer):
            if callback.monitor not in there and not (trainer.sanity_checking and callback.monitor.startswith(_TRAIN)):
                names = sorted(name for name in there if not name.startswith(_TRAIN))
                hint = did_you_mean(nearest_names(callback.monitor, names, 1))
                key = _key(pl_module, callback)
                raise ConfigError(
                    f"{key} is '{callback.monitor}', but validation has no such metric. "
                    f"It has: {', '.join(names) or 'none'}. {hint}".rstrip(),
                    key=key,
                )


def _monitoring(trainer: Trainer) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(getattr(callback, "monitor", None), str)]


def _metrics(pl_module: LightningModule) -> Iterable[tuple[str, MetricWrapper]]:
    metrics: Any = getattr(pl_module, "metrics", {})
    return [(place, metric) for place, found in metrics.items() for metric in found]


def _better(name: str, metric: MetricWrapper | None) -> str | None:
    """`min` or `max`, whichever is better for a metric; None if unknown."""
    higher = None if metric is None else metric.metric.higher_is_better
    if higher is not None:
        return "max" if higher else "min"
    last = name.rpartition("/")[-1].lower()
    if any(part in last for part in _LOWER):
        return "min"
    return "max" if any(part in last for part in _HIGHER) else None


def _key(pl_module: LightningModule, callback: Any) -> str:
    """The configuration key of the monitored metric."""
    return "monitored_metric" if _is_ours(pl_module, callback) else f"The monitor of {type(callback).__name__}"


def _mode_key(pl_module: LightningModule, callback: Any) -> str:
    return "monitored_mode" if _is_ours(pl_module, callback) else f"mode of {type(callback).__name__}"


def _is_ours(pl_module: LightningModule, callback: Any) -> bool:
    return bool(getattr(pl_module, "config", {}).get("monitored_metric") == callback.monitor)

"""Ends a run of several processes when one of them dies, stops or gets stuck, with a message that names it.

A thread in every process writes a beat to the store through which torch's processes found each other, and reads that
of the next rank, so the work per process doesn't grow with their number. The end of a process on the same machine is
seen at once. The main thread may hang in a collective operation then: a stopped process on this machine is killed,
which closes its connections, and a process that hangs anyway ends itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore

from xlm.errors import RankLostError, XLMError
from xlm.training.checkpoints import LastCheckpoint
from xlm.utils.run_lock import Holder

# How errors of torch's process groups read; gloo's are plain RuntimeErrors.
_OF_GROUP = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|process ?group|socket", re.IGNORECASE)
_OBSERVER = "_ChildProcessObserver"
_LOST = "lost"
# Seconds in which a process that knows of a lost one may save and end by itself.
_GRACE = 60.0


@dataclass(frozen=True)
class Lost:
    """A rank that ended or does not answer; `reason` continues a sentence about it."""

    rank: int
    reason: str


class RankMonitor(Callback):
    """Watches the other processes of a run; does nothing in a run of one process.

    Args:
        silence: seconds without a beat after which a process counts as lost.
        stall: seconds without a batch in any process, after which the one that is furthest behind counts as stuck.
    """

    def __init__(self, silence: float = 180.0, stall: float = 1500.0) -> None:
        self.silence, self.stall = silence, stall
        self.tick = min(1.0, silence / 10)
        self.lost: Lost | None = None
        self._found = threading.Event()
        self._ended = threading.Event()
        self._ended.set()
        self._stages = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._count, self._phase = 0, 0

    # The life of the monitor.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or not distributed.is_initialized():
            return
        self._children += _take_children()
        self._stages += 1
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        self._first_here = self.rank - trainer.local_rank
        default: Any = distributed.distributed_c10d._get_default_store()
        store = default.clone()
        store.set_timeout(timedelta(seconds=max(self.silence, 10.0)))
        self._store = PrefixStore(f"xlm_ranks_{self._stages}", store)
        self._store.set(f"who/{self.rank}", json.dumps(asdict(Holder.this_process())))
        per_node = int(getattr(trainer.strategy, "num_processes", 1))
        here = range(self._first_here, min(self._first_here + per_node, self.world_size))
        # Rank 0's, too: it may own the store.
        self._who = {rank: self._holder(rank) for rank in {0, self.next_rank, *here}}
        self._ticks = self._answered = self._unheard = self._moved_at = 0
        self._heard = b""
        self._ended = threading.Event()
        for run in (self._talk, self._watch):
            threading.Thread(target=run, args=(self._ended,), name=f"rank {self.rank}", daemon=True).start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._ended.is_set():
            _without_collectives(signal.SIGTERM)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self._ended.is_set():
            # Nobody may end while another one still watches it.
            trainer.strategy.barrier("xlm_ranks")
            self._ended.set()

    @property
    def next_rank(self) -> int:
        """The rank that this one listens to."""
        return (self.rank + 1) % self.world_size

    def _holder(self, rank: int) -> Holder:
        return Holder(**json.loads(self._store.get(f"who/{rank}")))

    # The two threads.

    def _talk(self, ended: threading.Event) -> None:
        """Write and read beats; a store that doesn't answer blocks this thread only."""
        while not ended.wait(self.tick) and self.lost is None:
            with contextlib.suppress(Exception):  # torch raises several kinds for a lost connection
                self._exchange()
                self._answered = self._ticks

    def _exchange(self) -> None:
        idle = (self._ticks - self._moved_at) * self.tick
        beat = {"beat": self._ticks, "at": [self._count, self._phase], "idle": idle}
        self._store.set(f"beat/{self.rank}", json.dumps(beat))
        if self._store.check([_LOST]):
            self._lose(Lost(**json.loads(self._store.get(_LOST))))
        name = f"beat/{self.next_rank}"
        heard = self._store.get(name) if self._store.check([name]) else b""
        # Only while the store answers: a stopped rank 0, which may own it, silences everyone else too.
        self._unheard = self._unheard + 1 if heard == self._heard else 0
        self._heard = heard
        if self.rank == 0 and idle >= self.stall:
            self._find_stuck()

    def _find_stuck(self) -> None:
        """The rank that is furthest behind, if none has finished a batch for a long time."""
        beats = {rank: json.loads(self._store.get(f"beat/{rank}")) for rank in range(self.world_size)}
        if min(beat["idle"] for beat in beats.values()) < self.stall - 2 * self.tick:
            return
        places = {rank: tuple(beat["at"]) for rank, beat in beats.items()}
        behind = min(places, key=lambda rank: (places[rank], -rank))
        self._announce(Lost(behind, f"made no progress for {self.stall:.0f} s, while the other processes waited"))

    def _watch(self, ended: threading.Event) -> None:
        """Count time by own ticks, so that a run that was suspended as a whole continues."""
        while not ended.wait(self.tick):
            self._ticks += 1
            for child in self._children:
                child.poll()
            if self.lost is None:
                self._look()

    def _look(self) -> None:
        for rank, holder in self._who.items():
            if rank != self.rank and holder.is_here and not holder.is_alive(0):
                self._announce(Lost(rank, self._how_it_ended(holder)))
                return
        silent = f"gave no sign of life for {self.silence:.0f} s"
        if (self._ticks - self._answered) * self.tick > self.silence:
            self._announce(Lost(0, silent))
        elif self._unheard * self.tick > self.silence:
            self._announce(Lost(self.next_rank, silent))

    def _how_it_ended(self, holder: Holder) -> str:
        code = next((_code_of(child) for child in self._children if child.pid == holder.pid), None)
        if code is None:
            return "has ended"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}, see its own message"

    # A lost rank.

    def _announce(self, lost: Lost) -> None:
        """Tell the others, without waiting for a store that may not answer."""

        def tell() -> None:
            with contextlib.suppress(Exception):
                self._store.compare_set(_LOST, "", json.dumps(asdict(lost)))

        # Everyone notices the end of the process that owns the store; torchrun's own process may own it.
        if lost.rank != 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            threading.Thread(target=tell, daemon=True).start()
        self._lose(lost)

    def _lose(self, lost: Lost) -> None:
        if self.lost is not None:
            return
        if lost.rank == self.rank:
            print(
                f"Error: The other processes count rank {self.rank} as lost, since it {lost.reason}.", file=sys.stderr
            )
            sys.stderr.flush()
            os._exit(1)
        self.lost = lost
        here = [rank for rank, holder in self._who.items() if holder.is_here and holder.is_alive(0)]
        # One process does it: the others would find that it "has ended" before they have found it silent.
        if lost.rank in here and self.rank == min(rank for rank in here if rank != lost.rank):
            with contextlib.suppress(OSError):
                os.kill(self._who[lost.rank].pid, signal.SIGKILL)
        self._found.set()
        threading.Thread(target=self._end_if_hanging, daemon=True).start()

    def _end_if_hanging(self) -> None:
        if not self._ended.wait(min(self.silence, _GRACE)):
            print(f"Error: {RankLostError(*self._described(), None)}", file=sys.stderr, flush=True)
            os._exit(1)

    def _described(self) -> tuple[int, str, str]:
        assert self.lost is not None
        who = self._who.get(self.lost.rank)
        return self.lost.rank, "" if who is None else f" (process {who.pid} on host {who.host})", self.lost.reason

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._ended.is_set():
            return
        if not isinstance(exception, Exception) or isinstance(exception, XLMError):
            self._ended.set()
            return
        if self.lost is None and _is_of_group(exception):
            self._found.wait(self.silence + 5 * self.tick)
        self._ended.set()
        if self.lost is None:
            return
        distributed.destroy_process_group()
        is_lowest = self.rank == self._lowest()
        saved = None
        if is_lowest:
            keeper = [c for c in trainer.callbacks if isinstance(c, LastCheckpoint)]  # type: ignore[attr-defined]
            saved = keeper[0].save_alone(trainer, self._who[0]) if keeper else None
        for logger in trainer.loggers:
            logger.finalize("failed")
        raise RankLostError(*self._described(), saved, is_quiet=not is_lowest) from exception

    def _lowest(self) -> int:
        """The lowest rank that is alive, as far as this process knows."""
        assert self.lost is not None
        dead = {rank for rank, holder in self._who.items() if holder.is_here and not holder.is_alive(0)}
        return next(rank for rank in range(self.world_size) if rank not in {self.lost.rank, *dead})

    # Progress: the number of batches, and the phase within one. Those who wait for a rank are further than it.

    def _mark(self, phase: int, new_batch: bool = False) -> None:
        self._count += new_batch
        self._phase = phase
        if not self._ended.is_set():
            self._moved_at = self._ticks
            # Not at the end of a batch: the step is done, and callbacks behind this one have still to log it.
            if self.lost is not None and not new_batch:
                raise RuntimeError("A process of the group is lost.")

    def on_train_batch_start(self, *args: Any) -> None:
        self._mark(1)

    def on_before_zero_grad(self, *args: Any) -> None:
        self._mark(2)

    def on_before_backward(self, *args: Any) -> None:
        self._mark(3)

    def on_after_backward(self, *args: Any) -> None:
        self._mark(4)

    def on_train_batch_end(self, *args: Any) -> None:
        self._mark(0, new_batch=True)

    def on_validation_batch_start(self, *args: Any) -> None:
        self._mark(5)

    def on_validation_batch_end(self, *args: Any) -> None:
        self._mark(5)

    def on_validation_epoch_end(self, *args: Any) -> None:
        self._mark(6)

    def on_test_batch_start(self, *args: Any) -> None:
        self._mark(5)

    def on_test_batch_end(self, *args: Any) -> None:
        self._mark(5)

    def on_test_epoch_end(self, *args: Any) -> None:
        self._mark(6)


def _code_of(child: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a child whose main thread has ended; its other threads may take a moment longer."""
    try:
        return child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return None


def _is_of_group(error: Exception) -> bool:
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and _OF_GROUP.search(str(error)) is not None
    )


def _without_collectives(signum: signal.Signals) -> None:
    """Remove Lightning's own part from the handlers of a signal.

    It calls a collective operation in the handler, so at any moment and in one process only: the others may be in
    another operation, or gone.
    """
    composed: Any = signal.getsignal(signum)
    handlers = getattr(composed, "signal_handlers", None)
    if handlers is None or threading.current_thread() is not threading.main_thread():
        return
    kept = [handler for handler in handlers if getattr(handler, "__name__", "") != "_sigterm_notifier_fn"]
    if kept:
        composed.signal_handlers = kept
    else:
        signal.signal(signum, signal.SIG_DFL)


def _take_children() -> list[subprocess.Popen[bytes]]:
    """The processes that Lightning's launcher started, from now on without the thread that watches them.

    That thread kills all processes, this one included, when one of them ends, so nothing could be saved or said.
    """
    found: list[subprocess.Popen[bytes]] = []
    for thread in threading.enumerate():
        if type(thread).__name__ == _OBSERVER:
            observer: Any = thread
            found += observer._child_processes
            observer._child_processes = []
    return found

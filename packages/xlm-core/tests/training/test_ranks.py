"""A process of a run dies, stops, hangs or fails: the others name it, end in time and leave a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from process_group import free_port, wait
from xlm.errors import DataError, RankLostError
from xlm.training import ranks
from xlm.training.checkpoints import LAST, LastCheckpoint
from xlm.training.ranks import RankMonitor
from xlm.training.rng import RandomState
from xlm.utils.run_lock import RunLock

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

SILENCE, STALL, STEP = 2.0, 3.0, 3
LOST = 7


class Net(LightningModule):
    """At step STEP, one rank does something that ends a run."""

    def __init__(self, rank: int, victim: int, what: str) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.happens = what if rank == victim else ""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.happens and self.global_step == STEP:
            if self.happens == "hang":
                threading.Event().wait()
            if self.happens == "data error":
                raise DataError("A row cannot be read.")
            os.kill(os.getpid(), getattr(signal, f"SIG{self.happens}"))
        return self.layer(batch[0]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(9999, 2)), batch_size=1)


def train(rank: int, world_size: int, victim: int, what: str, folder: Path) -> int:
    monitor = RankMonitor(SILENCE, STALL if what == "hang" else 600)
    callbacks = [monitor, RandomState(1), LastCheckpoint(str(folder / "checkpoints"))]
    with ExitStack() as stack:
        if rank == 0:
            stack.enter_context(RunLock(folder))
        trainer = Trainer(
            accelerator="cpu", devices=world_size, strategy="ddp", max_steps=9999, callbacks=callbacks, logger=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            default_root_dir=folder, plugins=[],
        )  # fmt: skip
        try:
            trainer.fit(Net(rank, victim, what))
        except RankLostError as error:
            (folder / f"said by {rank}").write_text("" if error.is_quiet else str(error))
            return LOST
    return 0


def run(world_size: int, victim: int, what: str, folder: Path) -> tuple[list[int], str, float]:
    """The exit codes by rank, what was said, and the seconds from start to end."""
    variables = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    started, children = time.monotonic(), []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            warnings.simplefilter("ignore")
            os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
            code = 1
            try:
                code = train(rank, world_size, victim, what, folder)
            finally:
                os._exit(code)
        children.append(pid)
    codes = {rank: wait(pid, 100) for rank, pid in enumerate(children) if rank != victim}
    codes[victim] = wait(children[victim], 10)
    said = "".join(file.read_text() for file in sorted(folder.glob("said by *")))
    return [codes[rank] for rank in range(world_size)], said, time.monotonic() - started


@pytest.mark.parametrize(
    ("world_size", "victim", "what", "expected", "reason"),
    [
        (2, 1, "KILL", {-9}, "has ended"),
        (2, 0, "KILL", {-9}, "has ended"),
        (3, 0, "STOP", {-9}, "gave no sign of life for 2 s"),
        # Its threads still run: it may read that it counts as lost, and end by itself, before rank 0 kills it.
        (2, 1, "hang", {-9, 1}, "made no progress for 3 s"),
        (2, 1, "data error", {1}, "has ended"),
    ],
)
def test_the_others_name_a_lost_rank_and_save_the_last_finished_step(
    tmp_path: Path, world_size: int, victim: int, what: str, expected: set[int], reason: str
) -> None:
    codes, said, seconds = run(world_size, victim, what, tmp_path)
    assert codes.pop(victim) in expected, said
    assert codes == [LOST] * (world_size - 1), said
    assert said.startswith(f"Rank {victim} (process ")
    assert reason in said
    checkpoint = torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)
    assert checkpoint["global_step"] == STEP
    # The state of the process that saved, at its place; nothing is known about the others.
    saver = 0 if victim else 1
    assert [state is not None for state in checkpoint["xlm_rng"]] == [rank == saver for rank in range(world_size)]
    assert seconds < 60


def test_nothing_is_saved_when_rank_0_ended_in_order(tmp_path: Path) -> None:
    """Then its lock is gone, and another run may have started in the folder."""
    codes, said, _ = run(2, 0, "data error", tmp_path)
    assert codes == [1, LOST]
    assert "if it has one" in said
    assert not (tmp_path / "checkpoints").exists()


def test_a_finished_step_is_logged_before_the_run_ends() -> None:
    """The checkpoint has this step; without its line in the log, the continued run would have a gap."""
    monitor = RankMonitor()
    monitor._ended, monitor._ticks = threading.Event(), 0
    monitor.lost = ranks.Lost(1, "has ended")
    monitor.on_train_batch_end()
    with pytest.raises(RuntimeError, match="lost"):
        monitor.on_train_batch_start()


def test_one_process_is_not_watched(tmp_path: Path) -> None:
    monitor = RankMonitor()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=1, callbacks=[monitor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Net(0, 1, ""))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rank ")]
    assert monitor._ended.is_set()


def test_lightnings_observer_is_given_no_processes_to_kill() -> None:
    from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

    child: Any = object()
    observer = _ChildProcessObserver(main_pid=os.getpid(), child_processes=[child], sleep_period=0)
    observer.start = lambda: None  # type: ignore[method-assign]
    before = threading.enumerate
    try:
        threading.enumerate = lambda: [observer]  # type: ignore[assignment]
        assert ranks._take_children() == [child]
    finally:
        threading.enumerate = before
    assert observer._run()  # nothing is left to watch

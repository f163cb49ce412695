"""Saving on full disks and in the background: old checkpoints stay until the new one is complete."""

from __future__ import annotations

import errno
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from xlm.errors import StorageError
from xlm.training import checkpoints, disk_space
from xlm.training.background import BackgroundCheckpointIO, Snapshot
from xlm.training.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, PeriodicCheckpoint
from xlm.training.disk_space import check_space, state_bytes
from xlm.training.resume import find_resumable, load_checkpoint


def state(step: int, num: int = 100_000) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((num,), float(step))}, "global_step": step}


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may be larger than 100 kB: the system refuses to write more, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_save_that_fails_halfway_is_a_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint(state(1, 100), tmp_path / "last.ckpt")
    with pytest.raises(StorageError, match=r"last\.ckpt cannot be written: File too large\. The checkpoints before"):
        plugin.save_checkpoint(state(2), tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def fake_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9 - free, free=free))


def test_nothing_is_written_when_the_space_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_disk(monkeypatch, 300_000)
    message = r"No space left on device \(0\.5 MiB are needed, 0\.3 MiB are free\)"
    with pytest.raises(StorageError, match=message):
        AtomicCheckpointIO().save_checkpoint(state(1), tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_space_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1000, 1000)  # 4 MB, and 12 MB with the state of Adam
    folder = tmp_path / "runs/a/checkpoints"
    for free, has_average, expected in ((100, False, None), (30, False, "about 46.5 MiB: 3 of 11.6 MiB, and space"),
                                        (40, True, "about 61.9 MiB: 3 of 15.5 MiB")):  # fmt: skip
        fake_disk(monkeypatch, free * 10**6)
        warning = check_space(folder, model, 3, has_average)
        assert (warning is None) if expected is None else (warning is not None and expected in warning)
    fake_disk(monkeypatch, 3 * 10**6)
    with pytest.raises(StorageError, match=r"has 2\.9 MiB of free space, but one checkpoint needs at least 4\.0 MiB"):
        check_space(folder, model, 3, False)
    assert not folder.exists()
    # Files that are there are replaced in time, and show the size of one.
    folder.mkdir(parents=True)
    for name in ("last.ckpt", "best.ckpt", "step-5.ckpt"):
        (folder / name).write_bytes(bytes(12 * 10**6))
    fake_disk(monkeypatch, 13 * 10**6)
    assert check_space(folder, model, 3, False) is None


def test_shared_storages_count_once() -> None:
    weight = torch.zeros(10, 10)
    assert state_bytes({"a": weight, "b": [weight[:5], (torch.zeros(3), "x", None)]}) == 400 + 12


def test_a_short_write_that_nobody_reported_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint(state(1), tmp_path / "last.ckpt")
    save = torch.save

    def short(content: Any, file: Any) -> None:
        save(content, file)
        file.truncate(file.tell() - 100)

    monkeypatch.setattr(checkpoints.torch, "save", short)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="the file on the disk is incomplete"):
        plugin.save_checkpoint(state(2), tmp_path / "last.ckpt")
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1


class Gate(AtomicCheckpointIO):
    """Writes only when it is open; `error` is raised instead of writing."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        super().save_checkpoint(checkpoint, path, storage_options)


def trainer_of(plugin: Any, step: int) -> Any:
    strategy = SimpleNamespace(checkpoint_io=plugin, barrier=lambda *_: None)
    return SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        global_step=step, is_global_zero=True, strategy=strategy, world_size=1,
        save_checkpoint=lambda path: plugin.save_checkpoint(state(step), path),
    )  # fmt: skip


def test_the_background_writes_the_state_of_the_save_and_removes_old_files_last(tmp_path: Path) -> None:
    gate = Gate()
    plugin = BackgroundCheckpointIO(gate)
    periodic = PeriodicCheckpoint(str(tmp_path), every_n_train_steps=1)
    gate.open.set()
    periodic.on_train_batch_end(trainer_of(plugin, 1), *[None] * 4)  # type: ignore[arg-type]
    plugin.wait()
    gate.open.clear()
    weights = state(2)
    trainer = trainer_of(plugin, 2)
    trainer.save_checkpoint = lambda path: plugin.save_checkpoint(weights, path)
    periodic.on_train_batch_end(trainer, *[None] * 4)  # type: ignore[arg-type]
    weights["state_dict"]["w"].zero_()  # the next step changes the weights in place
    weights["global_step"] = 3
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step-1.ckpt"]
    gate.open.set()
    plugin.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-2.ckpt"]
    saved = load_checkpoint(tmp_path / "step-2.ckpt")
    assert saved["global_step"] == 2
    assert torch.equal(saved["state_dict"]["w"], torch.full((100_000,), 2.0))
    plugin.teardown()


def test_an_error_of_the_background_is_raised_and_keeps_the_old_file(tmp_path: Path) -> None:
    gate = Gate()
    gate.open.set()
    plugin = BackgroundCheckpointIO(gate)
    periodic = PeriodicCheckpoint(str(tmp_path), every_n_train_steps=1)
    periodic.on_train_batch_end(trainer_of(plugin, 1), *[None] * 4)  # type: ignore[arg-type]
    plugin.wait()
    gate.open.clear()
    gate.error = StorageError("step-2.ckpt cannot be written: No space left on device.")
    periodic.on_train_batch_end(trainer_of(plugin, 2), *[None] * 4)  # type: ignore[arg-type]
    plugin.check()  # not finished: nothing to raise
    gate.open.set()
    with pytest.raises(StorageError, match="No space left"):
        LastCheckpoint(str(tmp_path)).on_train_end(trainer_of(plugin, 2), None)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["step-1.ckpt"]
    plugin.teardown()


def test_a_snapshot_keeps_ties_classes_and_views_and_uses_its_memory_again() -> None:
    weight = torch.randn(4, 6)
    layer = torch.nn.Linear(2, 2)
    content = {
        "state_dict": layer.state_dict(), "tied": [weight, weight.t(), weight[1:]], "empty": torch.zeros(0),
        "n": (1, None),
    }  # fmt: skip
    snapshot = Snapshot()
    copy = snapshot.of(content)
    assert copy["state_dict"]._metadata == content["state_dict"]._metadata
    assert all(torch.equal(a, b) for a, b in zip(copy["tied"], content["tied"], strict=True))
    assert len({part.untyped_storage().data_ptr() for part in copy["tied"]}) == 1
    assert copy["tied"][0].untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
    assert copy["n"] == (1, None)
    before = copy["tied"][0].untyped_storage().data_ptr()
    weight.add_(1)
    again = snapshot.of(content)
    assert again["tied"][0].untyped_storage().data_ptr() == before
    assert torch.equal(again["tied"][0], weight)


def test_a_failing_run_on_a_full_disk_keeps_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_disk(monkeypatch, 1000)
    last = LastCheckpoint(str(tmp_path))
    last.on_exception(trainer_of(AtomicCheckpointIO(), 3), None, ValueError("bad"))  # type: ignore[arg-type]
    assert "Training failed at step 3, and its state cannot be saved: " in caplog.text
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "zeros"])
def test_a_run_continues_before_a_damaged_checkpoint_and_keeps_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = AtomicCheckpointIO()
    for step in (10, 20):
        plugin.save_checkpoint(state(step), tmp_path / f"step-{step}.ckpt")
    newest = tmp_path / "step-20.ckpt"
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    half = len(content) // 2
    newest.write_bytes({"cut": content[:half], "empty": b"", "zeros": bytes(len(content))}.get(damage, content))
    found = find_resumable(tmp_path)
    assert found is not None
    assert (found[0].name, found[1]["global_step"]) == ("step-10.ckpt", 10)
    assert "step-20.ckpt cannot be read" in caplog.text
    PeriodicCheckpoint(str(tmp_path)).thin(15)
    assert newest.exists()


def test_only_errors_of_the_file_system_are_sentences() -> None:
    full = StorageError.of(OSError(errno.ENOSPC, "No space left on device", "runs/a.csv"))
    assert str(full) == "runs/a.csv: No space left on device."
    assert str(StorageError.of(OSError(errno.EROFS, "Read-only file system"))) == "Read-only file system."
    for error in (ConnectionResetError(errno.ECONNRESET, "reset"), ValueError("x"), OSError("unknown")):
        assert StorageError.of(error) is None
    assert disk_space.size(3 * 2**30) == "3.0 GiB"


def test_the_best_checkpoint_of_a_renamed_run_stays_the_best(tmp_path: Path) -> None:
    def checkpoint(folder: Path) -> BestCheckpoint:
        return BestCheckpoint(str(folder / "checkpoints"), monitor="val/loss")

    old, new = checkpoint(tmp_path / "old"), checkpoint(tmp_path / "new")
    best = tmp_path / "old" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    torch.save({"state_dict": {}}, best)
    old.best_model_path, old.best_model_score, old.kth_value = str(best), torch.tensor(0.5), torch.tensor(0.5)
    old.best_k_models, old.kth_best_model_path = {str(best): torch.tensor(0.5)}, str(best)
    saved = old.state_dict()
    # Another run that starts from this checkpoint has no best one yet.
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        new.load_state_dict(saved)
    assert new.best_model_score is None
    (tmp_path / "old").rename(tmp_path / "new")
    renamed = checkpoint(tmp_path / "new")
    renamed.load_state_dict(saved)
    here = str(tmp_path / "new" / "checkpoints" / "best.ckpt")
    assert (renamed.best_model_path, renamed.kth_best_model_path) == (here, here)
    assert renamed.best_model_score == torch.tensor(0.5)
    assert renamed.best_k_models == {here: torch.tensor(0.5)}

"""A real Lightning run that is stopped anywhere and resumed sees the same batches as an uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from xlm.data.loaders import CombinedTrainLoader, StatefulTrainLoader, make_loader
from xlm.data.rows import ListRows
from xlm.training.resume import align_progress

# lightning 2.6 calls what torch 2.13 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")

NUM_EXAMPLES = 22
BATCH_SIZE = 4
EPOCH = 5  # full batches; the ragged sixth is dropped
MAX_STEPS = 13
Loader = StatefulTrainLoader | CombinedTrainLoader


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor([example[name] for example in examples]) for name in ("id", "noise_seed")}


def train_loader(num_examples: int = NUM_EXAMPLES, **options: Any) -> StatefulTrainLoader:
    rows = ListRows({"id": i} for i in range(num_examples))
    loader = make_loader(rows, collate, train=True, batch_size=BATCH_SIZE, seed=7, **options)
    assert isinstance(loader, StatefulTrainLoader)
    return loader


class Recorder(LightningModule):
    """One weight, fitted to the ids; remembers the batches it saw, and after how many it was validated."""

    def __init__(self, loader: Loader, fail_at_batch: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loader = loader
        self.fail_at_batch = fail_at_batch
        self.seen: list[Any] = []
        self.validated: list[int] = []

    def train_dataloader(self) -> Any:
        return self.loader

    def val_dataloader(self) -> Any:
        return [make_loader(ListRows({"id": i} for i in range(6)), collate, train=False, batch_size=BATCH_SIZE)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        align_progress(checkpoint, self.trainer.accumulate_grad_batches, self.trainer.limit_train_batches)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(self.seen) == self.fail_at_batch:
            raise CrashError
        parts = batch if "id" not in batch else {"lm": batch}
        self.seen.append({name: (part["id"].tolist(), part["noise_seed"].tolist()) for name, part in parts.items()})
        target = torch.stack([part["id"].float().mean() for part in parts.values()]).sum()
        return (self.weight - target) ** 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.validated.append(len(self.seen))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class CrashError(RuntimeError):
    pass


class SaveEverywhere(Callback):
    """Saves a checkpoint in every hook where core or a user might."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[Path, int, int]] = []  # path, optimizer steps, batches seen

    def _save(self, trainer: Trainer, module: LightningModule, hook: str) -> None:
        path = self.folder / f"{len(self.saved):03d}-{hook}.ckpt"
        trainer.save_checkpoint(path)
        assert isinstance(module, Recorder)
        self.saved.append((path, trainer.global_step, len(module.seen)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._save(trainer, pl_module, "train_batch_end")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._save(trainer, pl_module, "validation_batch_end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._save(trainer, pl_module, "validation_end")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._save(trainer, pl_module, "train_epoch_end")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._save(trainer, pl_module, "exception")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._save(trainer, pl_module, "train_end")


def fit(module: Recorder, folder: Path, max_steps: int = MAX_STEPS, resume: Path | None = None,
        callback: Callback | None = None, **options: Any) -> Trainer:  # fmt: skip
    defaults = {"max_epochs": -1, "limit_val_batches": 0, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=max_steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[callback] if callback else [], **{**defaults, **options},
    )  # fmt: skip
    trainer.fit(module, ckpt_path=None if resume is None else str(resume), weights_only=True)
    return trainer


def batches_until(steps: int, accumulate: int = 1, epoch: int = EPOCH) -> int:
    """Batches of which the first `steps` optimizer steps are made; the last step of an epoch may have fewer."""
    epochs, rest = divmod(steps, -(-epoch // accumulate))
    return epochs * epoch + rest * accumulate


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("validate", [False, True])
def test_resuming_from_any_checkpoint_changes_nothing(tmp_path: Path, accumulate: int, validate: bool) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    if validate:
        # Every fourth batch, whatever the epoch, as trainer/default.yaml counts.
        options |= {"limit_val_batches": 1.0, "val_check_interval": 4, "check_val_every_n_epoch": None}
    whole, everywhere = Recorder(train_loader()), SaveEverywhere(tmp_path)
    fit(whole, tmp_path, callback=everywhere, **options)
    assert len(everywhere.saved) > 15
    for path, step, num_seen in everywhere.saved:
        resumed = Recorder(train_loader())
        trainer = fit(resumed, tmp_path, resume=path, **options)
        if step == MAX_STEPS:
            assert resumed.seen == []
            continue
        place = batches_until(step, accumulate)
        assert resumed.seen == whole.seen[place:], path.name
        assert resumed.weight.equal(whole.weight), path.name
        assert trainer.global_step == MAX_STEPS
        assert trainer.current_epoch == -(-len(whole.seen) // EPOCH), path.name
        # A validation that was due right there is done again, unless it was over.
        due = place if "batch_end" in path.name and num_seen == place else place + 1
        assert [place + n for n in resumed.validated] == [n for n in whole.validated if n >= due], path.name


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 6, 10])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_run_that_ended_on_max_steps_goes_on(tmp_path: Path, accumulate: int, step: int, num_workers: int) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    whole = Recorder(train_loader())
    fit(whole, tmp_path, **options)
    first = Recorder(train_loader(num_workers=num_workers))
    fit(first, tmp_path, step, **options).save_checkpoint(tmp_path / "after.ckpt")
    resumed = Recorder(train_loader(num_workers=num_workers))
    fit(resumed, tmp_path, resume=tmp_path / "after.ckpt", **options)
    assert first.seen + resumed.seen == whole.seen
    assert resumed.weight.equal(whole.weight)


@pytest.mark.parametrize("fail_at_batch", [1, 3, 5, 8])
def test_batch_that_failed_comes_again(tmp_path: Path, fail_at_batch: int) -> None:
    whole = Recorder(train_loader())
    fit(whole, tmp_path, accumulate_grad_batches=2)
    failing, everywhere = Recorder(train_loader(), fail_at_batch), SaveEverywhere(tmp_path)
    with pytest.raises(CrashError):
        fit(failing, tmp_path, callback=everywhere, accumulate_grad_batches=2)
    path, step, _ = everywhere.saved[-1]
    assert path.stem.endswith("exception")
    resumed = Recorder(train_loader())
    fit(resumed, tmp_path, resume=path, accumulate_grad_batches=2)
    assert resumed.seen == whole.seen[batches_until(step, 2) :]
    assert resumed.weight.equal(whole.weight)


@pytest.mark.parametrize("limits", [{"limit_train_batches": 3}, {"max_steps": -1, "max_epochs": 3}])
def test_shortened_epochs_and_lengths_in_epochs_resume_too(tmp_path: Path, limits: dict[str, Any]) -> None:
    whole, everywhere = Recorder(train_loader()), SaveEverywhere(tmp_path)
    fit(whole, tmp_path, callback=everywhere, **limits)
    for path, step, _ in everywhere.saved:
        resumed = Recorder(train_loader())
        fit(resumed, tmp_path, resume=path, **limits)
        assert resumed.seen == whole.seen[step:], path.name


def test_several_train_loaders_resume_together(tmp_path: Path) -> None:
    def loaders() -> CombinedTrainLoader:
        return CombinedTrainLoader({"long": train_loader(), "short": train_loader(13)})

    whole, everywhere = Recorder(loaders()), SaveEverywhere(tmp_path)
    fit(whole, tmp_path, callback=everywhere)
    assert set(whole.seen[0]) == {"long", "short"}
    for path, step, _ in everywhere.saved[:-2]:
        resumed = Recorder(loaders())
        fit(resumed, tmp_path, resume=path)
        assert resumed.seen == whole.seen[step:]


def test_checkpoints_of_other_loaders_are_left_alone() -> None:
    checkpoint = {"loops": {"fit_loop": {"state_dict": {"combined_loader": [{"_num_yielded": 3}]}}}}
    align_progress(checkpoint)
    assert checkpoint == {"loops": {"fit_loop": {"state_dict": {"combined_loader": [{"_num_yielded": 3}]}}}}
    align_progress({"state_dict": {}})

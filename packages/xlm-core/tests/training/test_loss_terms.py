"""A step is the mean over all its loss terms, however the batch is split: on a toy model, with real Trainers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from omegaconf import OmegaConf
from torch import Tensor, distributed, nn

from xlm.harness import Harness
from xlm.training.guards import FiniteLossGuard
from xlm.training.loss_terms import NOT_COUNTED, SEVERAL_LOADERS, LossTerms
from xlm.utils import rank_zero
from xlm.utils.instantiate import clear_components

pytestmark = [
    # lightning 2.6 calls what torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    # Python from 3.12 on warns of forks in a process with threads.
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

WIDTH = 3
# Terms of the rows of one global batch: as ragged as rows of text get.
LENGTHS = (1, 9, 2, 30, 5, 1, 17, 3)
SPLITS = {"1x8": (8,), "2x4": (4, 4), "4x2": (2, 2, 2, 2), "8x1": (1,) * 8, "uneven": (1, 5, 2)}
# Forks of this process, which doesn't have to import everything anew.
PAIR = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
Batch = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], dict[str, Any]]


def rows(lengths: tuple[int, ...], seed: int = 0) -> list[Batch]:
    """One batch of a row for each length, without padding."""
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(1, n, WIDTH, generator=generator, dtype=torch.float64)} for n in lengths]


def batch_of(some: list[Batch]) -> Batch:
    """Rows together, padded to the longest, and which positions are real."""
    x = nn.utils.rnn.pad_sequence([row["x"][0] for row in some], batch_first=True)
    length = torch.tensor([row["x"].shape[1] for row in some])
    return {"x": x, "mask": torch.arange(x.shape[1]) < length[:, None]}


def split(some: list[Batch], sizes: tuple[int, ...]) -> list[Batch]:
    """The rows as micro-batches of these sizes."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [batch_of(some[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


# Means over the positions where the mask is on, as losses write them.


def divided(error: Tensor, mask: Tensor) -> dict[str, Any]:
    """0/0 without a term, and then a gradient that is no number either."""
    return {"loss": 2 * ((error * mask).sum() / mask.sum()), "num_loss_terms": mask.sum()}


def clamped(error: Tensor, mask: Tensor) -> dict[str, Any]:
    return {"loss": (error * mask).sum() / mask.sum().clamp(min=1), "num_loss_terms": mask.sum()}


def selected(error: Tensor, mask: Tensor) -> dict[str, Any]:
    """A number on the host, as an index knows its length."""
    return {"loss": error[mask].mean(), "num_loss_terms": int(mask.sum())}


def by_rows(error: Tensor, mask: Tensor) -> dict[str, Any]:
    per_row = (error * mask).sum(dim=1) / mask.sum(dim=1)
    return {"loss": per_row.mean(), "num_loss_terms": len(per_row), "token_ce": per_row.detach()}


def uncounted(error: Tensor, mask: Tensor) -> dict[str, Any]:
    return {"loss": error[mask].mean()}


class Net(nn.Module):
    """One number for every position; a stack of layers, in which Muon looks for matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.squeeze(-1).double()


class Toy(Harness):
    """A small network, and one of the losses above."""

    def __init__(self, loss: Loss = clamped, optimizer: str = "torch.optim.SGD", loaders: tuple[str, ...] = ("lm",)):
        names = {"train": dict(enumerate(loaders))}
        cfg = OmegaConf.create({"optimizer": {"_target_": optimizer, "lr": 1.0}})
        self.loss = loss
        super().__init__(cfg, datamodule=SimpleNamespace(dataloader_names=names))
        self.seen: list[dict[str, Tensor]] = []

    def instantiate_model(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.model = Net().double()

    def instantiate_loss_function(self) -> None:
        loss = self.loss

        class Function:
            def __call__(_, batch: Batch, *__: Any) -> dict[str, Any]:  # noqa: N805
                return loss(self.model(batch["x"]) ** 2, batch["mask"])

        self.loss_function = Function()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """As published harnesses log the norm of the gradient: without super."""
        self.seen.append({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No components and no warnings of other tests."""
    monkeypatch.setattr(rank_zero, "_given", set())
    yield
    clear_components()


class Loader:
    """A loader of ready batches; of a list Lightning thinks that it holds loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def _own(self) -> list[Any]:
        """Every second one where two processes share them."""
        two = distributed.is_initialized()
        return self.batches[distributed.get_rank() :: 2] if two else self.batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._own())

    def __len__(self) -> int:
        return len(self._own())


def fit(harness: Harness, batches: list[Any], folder: Path, accumulate: int, **options: Any) -> Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_checkpointing": False}
    defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    trainer = Trainer(accumulate_grad_batches=accumulate, **{**defaults, **options})
    trainer.fit(harness, Loader(batches))
    return trainer


def gradient(batches: list[Batch], folder: Path, loss: Loss = clamped, **options: Any) -> Tensor:
    """Of one step over all the batches."""
    harness = Toy(loss)
    fit(harness, batches, folder, len(batches), **options)
    [seen] = harness.seen
    return torch.cat([g.flatten() for g in seen.values()])


def weights(harness: Harness) -> Tensor:
    return nn.utils.parameters_to_vector(harness.parameters()).detach()


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("loss", [divided, clamped, selected, by_rows])
def test_any_split_of_a_batch_gives_the_same_gradient(tmp_path: Path, loss: Loss) -> None:
    some = rows(LENGTHS)
    whole = gradient([batch_of(some)], tmp_path, loss)
    for sizes in SPLITS.values():
        assert_same(gradient(split(some, sizes), tmp_path, loss), whole)


@pytest.mark.parametrize("optimizer", ["torch.optim.SGD", "torch.optim.Adam", "xlm.training.muon.MuonWithAdamW"])
def test_clipped_steps_are_the_same_too(tmp_path: Path, optimizer: str) -> None:
    """Three steps, the last of fewer micro-batches than the others, because the epoch ends."""
    batches = [row for seed in range(2) for row in rows(LENGTHS, seed)] + rows(LENGTHS[:4], 2)
    found = []
    for size, accumulate in ((8, 1), (4, 2), (2, 4), (1, 8)):
        harness = Toy(optimizer=optimizer)
        sizes = (size,) * (len(batches) // size) + ((4,) if size == 8 else ())
        fit(harness, split(batches, sizes), tmp_path, accumulate, gradient_clip_val=0.1)
        assert len(harness.seen) == 3
        found.append(weights(harness))
    for theirs in found[1:]:
        assert_same(theirs - weights(Toy()), found[0] - weights(Toy()))


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("loss", [divided, clamped, selected])
def test_a_micro_batch_without_terms_adds_nothing(tmp_path: Path, loss: Loss, place: int) -> None:
    with_terms = split(rows((4, 1, 6)), (1, 1, 1))
    empty = {"x": torch.ones(2, 5, WIDTH, dtype=torch.float64), "mask": torch.zeros(2, 5, dtype=torch.bool)}
    batches = [*with_terms[:place], empty, *with_terms[place:]]
    whole = gradient([batch_of(rows((4, 1, 6)))], tmp_path, loss)
    assert_same(gradient(batches, tmp_path, loss, callbacks=[FiniteLossGuard()]), whole)
    assert torch.equal(gradient([empty, empty], tmp_path, loss), torch.zeros_like(whole))


class Losses(Callback):
    """What callbacks are told is the loss."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(outputs["loss"]))


def test_callbacks_still_see_the_mean(tmp_path: Path) -> None:
    batches = split(rows((4, 1, 6, 30)), (1, 1, 1, 1))
    losses = Losses()
    harness = Toy()
    fit(harness, batches, tmp_path, accumulate=4, callbacks=[losses])
    # Lightning says loss / A.
    expected = [Toy().loss_function(batch)["loss"].item() / 4 for batch in batches]
    assert losses.seen == pytest.approx(expected, rel=1e-12)


def test_one_batch_a_step_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("weigh", "divide"):
        monkeypatch.setattr(LossTerms, name, None)
    batch = batch_of(rows(LENGTHS))
    harness = Toy(divided)
    fit(harness, [batch], tmp_path, accumulate=1)
    alone = Toy(divided)
    alone.loss_function(batch)["loss"].backward()
    assert all(torch.equal(harness.seen[0][name], p.grad) for name, p in alone.named_parameters() if p.grad is not None)


class OwnTrainingStep(Toy):
    """Knows nothing of terms."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss_function(batch)["loss"]


class OwnStep(Toy):
    """Adds something to the loss, and logs it."""

    def _step(self, batch: Any, batch_idx: int, dataloader_idx: Any = None, stage: Any = "train") -> Any:
        found = super()._step(batch, batch_idx, dataloader_idx, stage)
        found["loss"] = found["loss"] + 0.1 * self.model.layers[0].weight.square().sum()
        self.log("train/more", found["loss"], on_step=True, on_epoch=False)
        return found


class Resumed(Toy):
    """Takes weights and optimizer from a checkpoint."""

    saved: Any

    def on_train_start(self) -> None:
        self.load_state_dict(self.saved["state_dict"])
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.load_state_dict(self.saved["optimizer_states"][0])


class ByHand(Toy):
    """Manual optimization: two micro-batches a step, weighed as it likes."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.manual_backward(super().training_step(batch, batch_idx)["loss"])
        optimizer: Any = self.optimizers()
        if batch_idx % 2:
            optimizer.step()


def averaged(batches: list[Batch], accumulate: int) -> Tensor:
    """The gradient as Lightning averages it: Σ ∇loss / A."""
    harness = Toy(uncounted)
    for batch in batches:
        (harness.loss_function(batch)["loss"] / accumulate).backward()
    return torch.cat([p.grad.flatten() for p in harness.parameters() if p.grad is not None])


def test_a_loss_that_counts_nothing_is_averaged_as_before_and_says_so_once(tmp_path: Path) -> None:
    batches = split(rows(LENGTHS[:6]), (2, 2, 2))
    harness = Toy(uncounted)
    with pytest.warns(UserWarning, match="returns no 'num_loss_terms'") as caught:
        fit(harness, batches, tmp_path, accumulate=2)
    assert [str(warning.message) for warning in caught].count(NOT_COUNTED) == 1
    # The second step has one micro-batch; Lightning divides its loss by 2 as well.
    assert len(harness.seen) == 2
    assert torch.equal(torch.cat([g.flatten() for g in harness.seen[0].values()]), averaged(batches[:2], 2))


def test_a_micro_batch_that_does_not_say_counts_like_an_average_one() -> None:
    terms, weight = LossTerms(), torch.ones((), requires_grad=True)
    for number, outputs in enumerate(({"num_loss_terms": 32}, {}, {"num_loss_terms": 64})):
        terms.weighted(terms.weigh({"loss": weight * (number + 1), **outputs}, number == 0)).backward()
    terms.divide(torch.optim.SGD([weight]), num_parts=1)
    assert weight.grad == (1 * 32 + 2 * 32 + 3 * 64) / (32 + 32 + 64)


def test_a_training_step_of_its_own_is_averaged_as_before(tmp_path: Path) -> None:
    batches = split(rows(LENGTHS), (4, 4))
    harness = OwnTrainingStep()
    fit(harness, batches, tmp_path, accumulate=2)
    assert torch.equal(torch.cat([g.flatten() for g in harness.seen[0].values()]), averaged(batches, 2))


def test_manual_optimization_is_left_alone(tmp_path: Path) -> None:
    batches = split(rows(LENGTHS), (4, 4))
    harness = ByHand(clamped)
    fit(harness, batches, tmp_path, accumulate=1)
    assert torch.equal(torch.cat([g.flatten() for g in harness.seen[0].values()]), averaged(batches, 1))


def test_a_step_that_adds_to_the_loss_and_logs_it_keeps_the_scale_of_both(tmp_path: Path) -> None:
    some = rows(LENGTHS)
    whole, parts = OwnStep(), OwnStep()
    fit(whole, [batch_of(some)], tmp_path, accumulate=1)
    fit(parts, split(some, (2, 2, 2, 2)), tmp_path, accumulate=4)
    assert_same(weights(parts) - weights(Toy()), weights(whole) - weights(Toy()))


def test_several_loaders_are_averaged_as_before_and_that_is_said_once(tmp_path: Path) -> None:
    ours, theirs = (split(rows(LENGTHS, seed), (4, 4)) for seed in (0, 1))
    harness = Toy(loaders=("a", "b"))
    with pytest.warns(UserWarning, match="several train loaders") as caught:
        fit(harness, [{"a": a, "b": b} for a, b in zip(ours, theirs, strict=True)], tmp_path, accumulate=2)
    assert [str(warning.message) for warning in caught].count(SEVERAL_LOADERS) == 1
    found = torch.cat([g.flatten() for g in harness.seen[0].values()])
    assert_same(found, averaged(ours, 2) + averaged(theirs, 2))


def test_a_resumed_run_that_finds_another_unit_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Its first micro-batch has 200 times the terms of the first of all."""
    batches = split(rows((1, 9, 2, 200, 3, 30, 5, 7)), (1,) * 8)

    def run(max_steps: int) -> Harness:
        harness = Toy(optimizer="torch.optim.Adam")
        trainer = fit(harness, batches, tmp_path, accumulate=3, max_epochs=-1, max_steps=max_steps)
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        return harness

    whole = run(max_steps=2)
    run(max_steps=1)
    resumed = Resumed(optimizer="torch.optim.Adam")
    resumed.saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    fit(resumed, batches[3:6], tmp_path, accumulate=3)
    assert (resumed._loss_terms._unit, whole._loss_terms._unit) == (256.0, 1.0)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("loss", [divided, selected])
def test_two_processes_take_the_steps_of_one(
    tmp_path: Path, loss: Loss, clip: float | None, request: pytest.FixtureRequest
) -> None:
    """Micro-batches of a row each, six for the first step and two for the last; one of them has no term."""
    if torch.cuda.is_available():
        # A process in which torch has started threads for a GPU cannot be forked.
        command = [sys.executable, "-m", "pytest", "-n", "0", request.node.nodeid]
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, cwd=request.config.rootpath, env=environ, check=True, timeout=240)
        return
    empty = {"x": torch.ones(2, 5, WIDTH, dtype=torch.float64), "mask": torch.zeros(2, 5, dtype=torch.bool)}
    some = rows(LENGTHS)
    pair, whole = Toy(loss), Toy(loss)
    batches = [*split(some[:2], (1, 1)), empty, *split(some[3:], (1,) * 5)]
    fit(pair, batches, tmp_path, accumulate=3, gradient_clip_val=clip, **PAIR)
    fit(whole, [batch_of(some[:2] + some[3:6]), batch_of(some[6:])], tmp_path, accumulate=1, gradient_clip_val=clip)
    assert_same(weights(pair) - weights(Toy()), weights(whole) - weights(Toy()))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_finds_the_same_gradient(tmp_path: Path, precision: Any) -> None:
    """With thousands of terms per micro-batch, and the scaler of fp16 at its usual start, nothing overflows."""
    some = rows((1500, 30, 4000, 700))
    scaler = torch.amp.GradScaler("cpu") if precision == "16-mixed" else None
    plugin = MixedPrecision(precision, "cpu", scaler)
    whole = gradient([batch_of(some)], tmp_path)
    found = gradient(split(some, (1, 1, 1, 1)), tmp_path, plugins=[plugin])
    assert (found - whole).norm() <= 0.02 * whole.norm()
    if scaler is not None:
        assert scaler.get_scale() == 65536.0


def test_all_kinds_of_gradients_are_divided() -> None:
    """Of several types and layouts side by side, and parts of distributed tensors."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    table = nn.Embedding(4, 2, sparse=True)
    plain, half = nn.Linear(2, 2), nn.Linear(2, 2).to(torch.bfloat16)
    table(torch.tensor([1, 1])).sum().backward()
    parameters: list[Any] = [table.weight, *plain.parameters(), *half.parameters()]
    for p in parameters[1:]:
        p.grad = torch.ones_like(p)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        shards = nn.Parameter(distribute_tensor(torch.ones(4), init_device_mesh("cpu", (1,))))
        shards.grad = torch.ones_like(shards)
        parameters.append(shards)
        before = [dense(p.grad) for p in parameters]
        terms = LossTerms()
        loss = torch.ones((), requires_grad=True)
        for is_first in (True, False):
            terms.weigh({"loss": loss, "num_loss_terms": 8 if is_first else 24}, is_first)
        terms.divide(torch.optim.SGD(parameters), num_parts=2)
        after = [dense(p.grad) for p in parameters]
    finally:
        distributed.destroy_process_group()
    # 2 / (8/8 + 24/8)
    assert all(torch.equal(new, old / 2) for new, old in zip(after, before, strict=True))


def dense(gradient: Any) -> Tensor:
    """A copy as an ordinary tensor."""
    plain: Tensor = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.to_dense()
    return plain.clone()

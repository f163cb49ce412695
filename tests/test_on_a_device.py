"""What a CUDA device must do as the CPU does: `hatch run test-gpu`. XLM_TEST_DEVICE=cpu runs most of it without one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import DictConfig
from torch import Tensor

from workspace import ROOT, read_packages
from xlm.cli.main import main
from xlm.commands import train
from xlm.compose import load_config
from xlm.harness import Harness
from xlm.inference.session import Session, start
from xlm.modules.attention import attention
from xlm.protocols import call_loss
from xlm.training.rng import random_state_of
from xlm.training.train_log import read_metrics
from xlm.utils.instantiate import clear_components

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    # Libraries of a release; none of these is about what is tested.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]
only_cuda = pytest.mark.gpu(only_cuda=True)
FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
DEVICE = os.environ.get("XLM_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE == "cuda"
SMALL = (
    "job_name=m", "loggers=debug", f"trainer.accelerator={'gpu' if ON_CUDA else DEVICE}", "trainer.devices=1",
    "trainer_strategy=single_device", "per_device_batch_size=8", "trainer.log_every_n_steps=1",
    "model.dropout=0.0",  # drawn on the device
    "datamodule.dataset_managers.train.lm.num_examples=64",
    *(
        f"datamodule.dataset_managers.{split}.{loader}.num_examples=8"
        for split in ("val", "test")
        for loader in ("lm", "prediction")
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def exact_products(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Deterministic products of matrices on CUDA.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.use_deterministic_algorithms(False)


def config_of(family: str, *overrides: str) -> DictConfig:
    # The later of two words for one key wins.
    words = [f"experiment=star_medium_{family}", f"model=xtiny_{family}", *SMALL, *overrides]
    return load_config(list({word.split("=", 1)[0]: word for word in words}.values()))


def trained(family: str, *overrides: str) -> Path:
    train.run(config_of(family, *overrides))
    clear_components()
    return Path("runs/m")


def losses_of(run: Path) -> list[float]:
    """The training loss of every logged step."""
    return [value for _, name, value, _ in read_metrics(run / "metrics.csv") if name == "train/lm/accumulated_loss"]


def built(family: str, *overrides: str) -> tuple[Session, Harness, list[Any]]:
    """A session, its module with fresh weights, and the first training batches."""
    session = start(config_of(family, *overrides))
    session.datamodule.setup("fit")
    harness = session.harness()
    batches = []
    for batch in session.datamodule.train_loader_of(1):
        batches.append(batch)
        if len(batches) == 8:
            break
    return session, harness, batches


def on(device: str, batch: Any) -> Any:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def loss_and_gradients(harness: Harness, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """On the CPU, in float32. Not in training mode, in which counts of lengths are learned with each call."""
    harness.eval().zero_grad()
    with random_state_of(0):
        loss = call_loss(harness.loss_function, batch, 0, 0, "lm")["loss"]
    loss.backward()
    gradients = {name: p.grad.float().cpu() for name, p in harness.named_parameters() if p.grad is not None}
    return loss.detach().float().cpu(), gradients


# Whole runs.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_evaluates_and_generates_in_bf16(family: str, capfd: pytest.CaptureFixture[str]) -> None:
    # Compiling for a CPU takes minutes; what is compiled has its own test below.
    compiled = [f"compile={str(ON_CUDA).lower()}"]
    run = trained(
        family, "++trainer.precision=bf16-mixed", "trainer.max_steps=6", "trainer.val_check_interval=3", *compiled
    )
    losses = losses_of(run)
    assert len(losses) == 6
    assert all(map(math.isfinite, losses))
    assert main(["eval", str(run), f"trainer.accelerator={'gpu' if ON_CUDA else DEVICE}"]) == 0
    found = json.loads((run / "eval_test.json").read_text())
    assert math.isfinite(found["metrics"]["test/lm/accumulated_loss"])
    assert main(["generate", str(run), "generation.num_examples=2", "generation.split=test"]) == 0
    assert len((run / "generations.jsonl").read_text().splitlines()) == 2
    capfd.readouterr()


@pytest.mark.parametrize("family", FAMILIES)
def test_low_precision_is_near_full_precision(family: str) -> None:
    """The losses of 8 steps: autocast within 2 %, all in bf16 within 10 %."""
    curves = {}
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        name = [f"++trainer.precision={precision}", f"job_name={precision}"]
        quiet = ["trainer.max_steps=8", "trainer.limit_val_batches=0", "test_after_training=false"]
        trained(family, *name, *quiet, "monitored_metric=train/lm/accumulated_loss")
        curves[precision] = torch.tensor(losses_of(Path("runs") / precision))
        assert len(curves[precision]) == 8
    full = curves["32-true"]
    assert torch.isfinite(torch.stack(list(curves.values()))).all()
    assert ((curves["bf16-mixed"] - full).abs() / full).max() < 0.02
    assert ((curves["bf16-true"] - full).abs() / full).max() < 0.10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_was_stopped_ends_with_the_same_weights(family: str) -> None:
    steady = [
        "++trainer.deterministic=true", "lr_scheduler=constant", "trainer.val_check_interval=2", "ema_decay=0.9",
        "global_batch_size=16", "test_after_training=false",
    ]  # fmt: skip
    whole = trained(family, *steady, "trainer.max_steps=6", "job_name=whole").with_name("whole")
    trained(family, *steady, "trainer.max_steps=3", "job_name=parts")
    parts = trained(family, *steady, "trainer.max_steps=6", "job_name=parts").with_name("parts")
    files = (run / "checkpoints/last.ckpt" for run in (whole, parts))
    one, other = (torch.load(file, weights_only=True, map_location="cpu") for file in files)
    assert one["global_step"] == other["global_step"] == 6
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert losses_of(whole) == losses_of(parts)


# One batch.


@pytest.mark.parametrize("family", FAMILIES)
def test_the_device_computes_the_loss_and_the_gradients_of_the_cpu(family: str) -> None:
    _, harness, batches = built(family)
    loss, gradients = loss_and_gradients(harness.to("cpu"), batches[0])
    found, others = loss_and_gradients(harness.to(DEVICE), on(DEVICE, batches[0]))
    torch.testing.assert_close(found, loss, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == others.keys()
    assert len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_equals_a_padded_one(family: str) -> None:
    _, harness, batches = built(family, "batching=packed")
    harness.to(DEVICE)
    batch = on(DEVICE, next(b for b in batches if len(b["token_index"]) < b["attention_mask"].numel()))
    padded = {name: value for name, value in batch.items() if name != "token_index"}
    loss, gradients = loss_and_gradients(harness, batch)
    expected, others = loss_and_gradients(harness, padded)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-3, atol=1e-5)


# Attention.


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q kᵀ / √dim) v in float64, on the CPU."""
    q, k, v = (x.double().cpu() for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask.cpu(), -torch.inf)
    return scores.softmax(dim=-1) @ v


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 4, 128, 64, generator=generator).to(DEVICE) for _ in range(3))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["causal", "padded", "padded and causal", "blocks", "flash"])
def test_attention_equals_its_formula(qkv: tuple[Tensor, Tensor, Tensor], kind: str) -> None:
    q, k, v = qkv
    length = q.shape[-2]
    order = torch.ones(length, length, dtype=torch.bool).tril()
    real = torch.arange(length) < torch.tensor([length, length // 2, 7])[:, None]
    if kind == "causal":
        found, mask = attention(q, k, v, is_causal=True), order
    elif kind == "padded":
        found, mask = attention(q, k, v, real.to(DEVICE)), real[:, None, None, :]
    elif kind == "padded and causal":
        found, mask = attention(q, k, v, real.to(DEVICE), is_causal=True), real[:, None, None, :] & order
    elif kind == "blocks":
        from torch.nn.attention.flex_attention import create_block_mask

        blocks = create_block_mask(lambda b, h, i, j: i // 32 >= j // 32, None, None, length, length, device=DEVICE)
        found, block = attention(q, k, v, block_mask=blocks), torch.arange(length) // 32
        mask = block[:, None] >= block
    else:
        q, k, v = (x.to(torch.bfloat16) for x in qkv)
        found, mask = attention(q, k, v, is_causal=True, force_flash_attn=True), order
    tolerance = 2e-2 if kind == "flash" else 1e-4
    torch.testing.assert_close(found.double().cpu(), reference(q, k, v, mask), rtol=tolerance, atol=tolerance)


# What only a CUDA device shows.


class NoSynchronization(Callback):
    """Raises at any operation of a step, after the first, that waits for the device."""

    def __init__(self) -> None:
        self.num_steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx else "default")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.num_steps += 1


@only_cuda
@pytest.mark.parametrize("family", FAMILIES)
def test_no_step_waits_for_the_device(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = NoSynchronization()
    monkeypatch.setattr(train, "build_callbacks", lambda cfg: [watch])
    overrides = ["batching=packed", "global_batch_size=16", "++trainer.precision=bf16-mixed", "ema_decay=0.9"]
    long = ["trainer.log_every_n_steps=100", "trainer.max_steps=4", "trainer.limit_val_batches=0"]
    trained(family, *overrides, *long, "test_after_training=false", "dataloader_pin_memory=true")
    assert watch.num_steps == 8


@only_cuda
@pytest.mark.parametrize("family", FAMILIES)
def test_the_memory_of_a_step_is_what_the_plan_says(family: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = [f"experiment=star_medium_{family}", f"model=tiny_{family}", *SMALL, "per_device_batch_size=64"]
    words = list({word.split("=", 1)[0]: word for word in words}.values())
    assert main(["plan", *words]) == 0
    memory = json.loads(Path("plan.json").read_text())["memory_bytes"]
    planned = memory["weights"] + memory["optimizer"] + memory["averaged_weights"] + memory["activations"]
    train.run(load_config([*words, "trainer.max_steps=5", "trainer.limit_val_batches=0", "test_after_training=false"]))
    measured = torch.cuda.max_memory_allocated()
    assert 0.7 < measured / planned < 1.3
    capfd.readouterr()


@only_cuda
def test_batches_come_from_pinned_memory() -> None:
    session = start(config_of("mlm", "dataloader_pin_memory=true"))
    session.datamodule.setup("fit")
    batch = next(iter(session.datamodule.train_loader_of(1)))
    assert all(value.is_pinned() for value in batch.values() if isinstance(value, Tensor))

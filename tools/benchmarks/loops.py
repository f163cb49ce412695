"""A step of `xlm train` and of the Trainers of Lightning and transformers, beside bare loops."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from benchmarks.measure import OURS, Case, Setting, Spent, Way
from benchmarks.networks import Shape, adamw, examples_of, peer_of

BARE, LIGHTNING = "bare loop", "Trainer of Lightning alone"
PEER, BARE_PEER = "Trainer of transformers, gpt2", "bare loop, gpt2"
# The first logged step, number 10, measures once what the machine can do; its cost belongs to the start.
_WARMUP = 15


def cases(setting: Setting) -> list[Case]:
    """One family at two sizes, the smaller one with steps of a few milliseconds."""
    steps = 4 if setting.is_quick else 60
    return [
        Case("loop", f"arlm, {size}", f"star_mini, B 64, `{size}`, {steps} steps", "steps", _opening(size, steps), 1, 7)
        for size in (("xtiny",) if setting.is_quick else ("tiny", "xtiny"))
    ]


class StepClock(Callback):
    """Notes the time at the end of a step: `latest` is the cost of the steps after the warm-up."""

    latest: Spent | None = None

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.mark()

    def mark(self) -> None:
        """A step has ended."""
        self._marks.append((time.process_time(), time.perf_counter()))
        if len(self._marks) > _WARMUP:
            (cpu, wall), (end_cpu, end_wall) = self._marks[_WARMUP - 1], self._marks[-1]
            StepClock.latest = Spent(end_cpu - cpu, end_wall - wall)


def _opening(size: str, steps: int) -> Callable[[Setting], Any]:
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                yield ways(size, steps, setting)
            finally:
                os.chdir(before)

    return opened


def words(size: str, steps: int, device: str) -> list[str]:
    """The run: no validation, no test, and no save in between."""
    return [
        "experiment=star_mini_arlm", f"model={size}_arlm", f"trainer.max_steps={steps + _WARMUP}",
        "trainer_strategy=single_device", f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}",
        "trainer.limit_val_batches=0", "test_after_training=false",
        "datamodule.dataset_managers.train.lm.num_examples=2048",
    ]  # fmt: skip


def ways(size: str, steps: int, setting: Setting) -> list[Way]:
    """Each trains the same number of steps; what comes before the first ones is left out."""
    from xlm.commands import train
    from xlm.compose import load_config
    from xlm.inference.session import start
    from xlm.utils.instantiate import clear_components

    number = itertools.count()

    def of_xlm() -> Spent | None:
        clock = [f"job_name=loop{next(number)}", "+callbacks.clock={_target_: benchmarks.loops.StepClock}"]
        with contextlib.redirect_stdout(io.StringIO()):
            train.run(load_config([*words(size, steps, setting.device), *clock]))
        return StepClock.latest

    def lightning() -> Spent | None:
        session = start(load_config([*words(size, steps, setting.device), "job_name=lightning"]))
        Trainer(
            accelerator="gpu" if setting.device == "cuda" else "cpu", devices=1, max_steps=steps + _WARMUP,
            precision="bf16-mixed" if setting.device == "cuda" else "32-true", gradient_clip_val=1.0,
            limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[StepClock()],
        ).fit(session.harness(), datamodule=session.datamodule)  # fmt: skip
        clear_components()
        return StepClock.latest

    def bare() -> Spent | None:
        session = start(load_config([*words(size, steps, setting.device), "job_name=bare"]))
        session.datamodule.prepare_data()
        session.datamodule.setup("fit")
        harness = session.harness().to(setting.device).train()
        found = harness.configure_optimizers()
        optimizer, scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
        batches = endless(lambda: session.datamodule.train_loader_of(1))
        clock = StepClock()
        for _ in range(steps + _WARMUP):
            batch = {name: _moved(value, setting.device) for name, value in next(batches).items()}
            with setting.autocast():
                loss = harness.loss_function.loss_fn(batch)["loss"]
            step(loss, harness.parameters(), optimizer)
            scheduler.step()
            clock.mark()
        clear_components()
        return StepClock.latest

    return [
        Way(OURS, of_xlm, steps),
        Way(LIGHTNING, lightning, steps),
        Way(BARE, bare, steps),
        *_peer_ways(size, steps, setting),
    ]


def _peer_ways(size: str, steps: int, setting: Setting) -> list[Way]:
    import transformers as t

    width, layers, heads = {"tiny": (128, 3, 4), "xtiny": (64, 2, 2)}[size]
    # Rows of star_mini have 32 tokens.
    shape = Shape(B=64, L=32, V=32, d=width, layers=layers, heads=heads)
    rows = [torch.tensor(row["input_ids"]) for row in examples_of(shape, 2048)]

    def collate(part: list[Any]) -> dict[str, torch.Tensor]:
        ids = torch.stack(part)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    class Ends(t.TrainerCallback):
        """The same clock."""

        def __init__(self) -> None:
            self.clock = StepClock()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.clock.mark()

    def trainer() -> Spent | None:
        options: dict[str, Any] = {"use_cpu": setting.device == "cpu", "bf16": setting.device == "cuda"}
        arguments = t.TrainingArguments(
            "peer", max_steps=steps + _WARMUP, per_device_train_batch_size=64, logging_steps=10, save_strategy="no",
            report_to=[], disable_tqdm=True, dataloader_pin_memory=False, **options,
        )  # fmt: skip
        data: Any = rows
        found = t.Trainer(peer_of("gpt2", shape), arguments, collate, train_dataset=data, callbacks=[Ends()])
        with contextlib.redirect_stdout(io.StringIO()):
            found.train()
        return StepClock.latest

    def bare() -> Spent | None:
        network = peer_of("gpt2", shape).to(setting.device).train()
        optimizer, clock = adamw(network), StepClock()
        batches = endless(lambda: torch.utils.data.DataLoader(rows, 64, shuffle=True, collate_fn=collate))  # type: ignore[arg-type]
        for _ in range(steps + _WARMUP):
            batch = {name: value.to(setting.device) for name, value in next(batches).items()}
            with setting.autocast():
                loss = network(**batch).loss
            step(loss, network.parameters(), optimizer)
            clock.mark()
        return StepClock.latest

    return [Way(PEER, trainer, steps), Way(BARE_PEER, bare, steps)]


def step(loss: torch.Tensor, parameters: Any, optimizer: Any) -> None:
    """Backward, clipping at norm 1 and an optimizer step, which both trainers do by default."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def endless(make: Callable[[], Any]) -> Iterator[Any]:
    """The batches of one loader after the other."""
    while True:
        yield from make()


def _moved(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value

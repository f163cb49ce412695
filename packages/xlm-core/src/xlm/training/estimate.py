"""Estimates of a run: parameters by part, bytes of its states and checkpoints, and a few measured steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from xlm.training.flops import FirstForward, Shape, StepFlops, synchronize
from xlm.training.train_log import batches_of


class Part(NamedTuple):
    """A named part of a model, with its numbers of trainable and of other values."""

    name: str
    trainable: int
    frozen: int


def parts_of(modules: Iterable[tuple[str, nn.Module]]) -> list[Part]:
    """The children of each module, and its other values; a weight shared by two parts counts in the first."""
    seen: set[int] = set()
    parts: list[Part] = []
    for name, module in modules:
        parts += [_part(child_name, child, seen) for child_name, child in module.named_children()]
        own = _part(f"{name} itself", module, seen)
        if own.trainable or own.frozen:
            parts.append(own)
    return parts


def _part(name: str, module: nn.Module, seen: set[int]) -> Part:
    counts = {True: 0, False: 0}
    for parameter in module.parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            counts[parameter.requires_grad] += parameter.numel()
    return Part(name, counts[True], counts[False])


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """The total over all parts."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def optimizer_bytes(optimizer: Optimizer) -> int:
    """The bytes of an optimizer's state after a step."""
    return num_bytes(value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))


def bytes_after_a_step(optimizer: Optimizer) -> int:
    """`optimizer_bytes` after a step with zero gradients; the parameters may have changed afterwards."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer_bytes(optimizer)


def num_checkpoints(callbacks: Mapping[str, Any], max_steps: int) -> int:
    """The number of files that a run of `steps` steps keeps: the last, the best, and those of `PeriodicCheckpoint`."""
    count = 1
    for node in callbacks.values():
        kind = str((node or {}).get("_target_", "")).rpartition(".")[-1]
        if kind == "BestCheckpoint":
            count += max(int(node.get("save_top_k", 1)), 0)
        elif kind == "PeriodicCheckpoint" and 0 < (every := int(node.get("every_n_train_steps", 500))) <= max_steps:
            steps = range(every, max_steps + 1, every)
            multiple = node.get("keep_multiple")
            newest = min(int(node.get("num_newest", 1)), len(steps))
            count += newest + (sum(not step % multiple for step in steps[:-newest]) if multiple else 0)
    return count


@dataclass
class Measured:
    """Measurements of a few optimizer steps, after the warm-up unless the first batch is named.

    Args:
        seconds: of each step, including data loading.
        shape: of all measured batches together.
        tokens: the real tokens in them; None without attention masks.
        examples: the examples in them.
        flops: of the first batch.
        saved_bytes: saved by the first batch's forward pass for its backward pass, without parameters.
        peak_bytes: the most memory allocated in a step, on top of that between steps; CUDA only.
    """

    seconds: list[float] = field(default_factory=list)
    shape: Shape = field(default_factory=Shape)
    tokens: int | None = 0
    examples: int = 0
    flops: StepFlops | None = None
    saved_bytes: int = 0
    peak_bytes: int | None = None
    optimizer_bytes: int = 0

    @property
    def typical_seconds(self) -> float:
        """The median step."""
        return statistics.median(self.seconds)

    @property
    def padding(self) -> float | None:
        """The share of positions that are padding."""
        return None if self.tokens is None or not self.shape.positions else 1 - self.tokens / self.shape.positions


class MeasureSteps(Callback):
    """Measures optimizer steps after a warm-up; memory and operations are counted on its first batch.

    Args:
        num_warmup: steps before timing starts.
        counts_flops: false for a compiled loss, whose operators cannot be seen.
    """

    def __init__(self, num_warmup: int, counts_flops: bool = True) -> None:
        self.num_warmup = num_warmup
        self.measured = Measured()
        self._forward = FirstForward() if counts_flops else None
        self._watch: ExitStack | None = None
        self._saved: dict[int, int] = {}
        self._steps = 0
        self._began = 0.0
        self._resting = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._watch is not None:
            return
        self._watch = ExitStack()
        weights = {tensor.untyped_storage().data_ptr() for tensor in pl_module.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                self._saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        self._watch.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        if self._forward is not None:
            self._forward.begin()
            self._watch.callback(self._forward.end)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._stop_watching()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stop_watching()
        parts = list(batches_of(batch))
        if self._forward is not None:
            self._forward.settle(Shape.of(parts))
        if self._steps >= self.num_warmup:
            self._add(parts)
        if trainer.global_step > self._steps:
            self._end_step(trainer, pl_module.device)

    def _add(self, parts: list[dict[str, Any]]) -> None:
        found = self.measured
        found.shape += Shape.of(parts)
        found.examples += sum(len(part["input_ids"]) for part in parts)
        for part in parts:
            mask = part.get("attention_mask")
            if mask is None or found.tokens is None:
                found.tokens = None
            else:
                found.tokens += int(torch.count_nonzero(mask))

    def _end_step(self, trainer: Trainer, device: torch.device) -> None:
        synchronize(device)
        now = time.perf_counter()
        if self._steps >= self.num_warmup:
            self.measured.seconds.append(now - self._began)
        elif device.type == "cuda":
            self._resting = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        self._steps = trainer.global_step
        self._began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = self.measured
        found.flops = None if self._forward is None else self._forward.flops
        found.saved_bytes = sum(self._saved.values())
        found.optimizer_bytes = sum(optimizer_bytes(optimizer) for optimizer in trainer.optimizers)
        if pl_module.device.type == "cuda":
            found.peak_bytes = torch.cuda.max_memory_allocated(pl_module.device) - self._resting

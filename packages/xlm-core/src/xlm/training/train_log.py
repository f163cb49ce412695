"""What is logged while training: metrics, learning rate and throughput, once every `trainer.log_every_n_steps`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xlm.training.flops import FirstForward, Shape
from xlm.training.peak import matmul_dtype, matmul_peak


@runtime_checkable
class MetricSource(Protocol):
    """A module that gives its metrics away and starts them anew."""

    def pop_metrics(self, stage: str) -> dict[str, float]: ...


class TrainLog(Callback):
    """Sends `train/…` values to the loggers, and keeps the newest of each in `latest` for the progress display.

    Tokens per second count real tokens, without padding. Time spent in validation and checkpoints is not counted.
    Sums stay on the device and are read here alone, so the steps in between never wait for it.

    `train/padding` is the share of positions whose attention mask is off. `train/mfu` is how many operations of its
    products the model gets done per second (counted once, see `FlopTally`), over what the device reached in products
    alone when training started; data loading is in the time. Both are of this process. There is no mfu with
    `compile=true`, whose operators cannot be seen, nor for a model without products.
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self._forward: FirstForward | None = None
        self._peak = 0.0
        self._last_step = 0
        # Tokens and seconds of everything logged, earlier starts of the run included.
        self.totals = (0.0, 0.0)
        self._reset()

    def _reset(self) -> None:
        self._tokens: torch.Tensor | int = 0
        self._shape = Shape()
        self._has_masks = True
        self._examples = 0
        self._seconds = 0.0
        self._started: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        config: Any = getattr(pl_module, "config", None) or {}
        if not config.get("compile"):
            self._forward = FirstForward()
            self._peak = matmul_peak(pl_module.device, matmul_dtype(str(trainer.precision)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._started is None:
            self._started = time.perf_counter()
        if self._forward is not None:
            self._forward.begin()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        if self._forward is not None:
            self._forward.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._forward is not None:
            self._forward.end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def _pause(self) -> None:
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    @property
    def tokens_per_second(self) -> float | None:
        """Mean over the whole run so far; None before the first value is logged."""
        tokens, seconds = self.totals
        return tokens / seconds if seconds else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        parts = list(batches_of(batch))
        for part in parts:
            self._tokens = self._tokens + _tokens_of(part)
            self._has_masks &= part.get("attention_mask") is not None
            self._examples += part["input_ids"].shape[0]
        shape = Shape.of(parts)
        self._shape += shape
        if self._forward is not None:
            self._forward.settle(shape)
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self._last_step or not every or step % every:  # 0: nothing is ever logged
            return
        self._last_step = step
        assert isinstance(pl_module, MetricSource)
        values = pl_module.pop_metrics("train")  # reading them waits for the device, so the clock stops after it
        self._pause()
        values["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        tokens, seconds = self.totals
        self.totals = tokens + float(self._tokens) * trainer.world_size, seconds + self._seconds
        if self._seconds > 0:
            values["train/tokens_per_second"] = float(self._tokens) * trainer.world_size / self._seconds
            values["train/examples_per_second"] = self._examples * trainer.world_size / self._seconds
        values |= self._utilisation()
        self._reset()
        self.latest.update(values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)

    def _utilisation(self) -> dict[str, float]:
        """`train/padding` and `train/mfu` since the last logged step, as far as they are known."""
        values: dict[str, float] = {}
        if self._shape.positions and self._has_masks:
            values["train/padding"] = 1 - float(self._tokens) / self._shape.positions
        flops = None if self._forward is None else self._forward.flops
        if flops is not None and self._seconds > 0:
            values["train/mfu"] = flops.of(self._shape) / self._seconds / self._peak
        return values


def num_tokens(batch: Any) -> int:
    """The tokens of a training batch, padding left out; 0 if it has no `input_ids`."""
    return sum(int(_tokens_of(part)) for part in batches_of(batch))


def _tokens_of(part: dict[str, Any]) -> torch.Tensor | int:
    ids, mask = part["input_ids"], part.get("attention_mask")
    return ids.numel() if mask is None else (mask != 0).sum()


def batches_of(batch: Any) -> Iterator[dict[str, Any]]:
    """The dicts of tensors in a training batch: itself, or one per train loader."""
    if not isinstance(batch, dict):
        return
    if isinstance(batch.get("input_ids"), torch.Tensor):
        yield batch
        return
    for part in batch.values():
        yield from batches_of(part)

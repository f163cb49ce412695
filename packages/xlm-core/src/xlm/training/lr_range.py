"""The learning-rate range test: training steps at increasing rates, a picture of the loss, and a suggested rate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from xlm.errors import ConfigError
from xlm.reports.quantities import axis_title
from xlm.utils.consoles import plain_console
from xlm.utils.figures import (
    WIDE,
    add_legend,
    linear_axis,
    log_axis,
    log_ticks,
    new_figure,
    save_figure,
    style_axes,
)
from xlm.utils.files import replace_text
from xlm.utils.palette import EDGE, SERIES

Rate = Annotated[float, Gt(0)]
# Weight of the earlier losses in the running average that ends the test.
_MEMORY = 0.9
# Steps on both sides over which the loss is smoothed: a running average would shift it to larger rates.
_NEIGHBOURS = 7
# Inches.
_HEIGHT = 3.9


@dataclass(frozen=True)
class RangeResult:
    """What the test found.

    Args:
        suggested: the rate at which the smoothed loss had done half of its fall; None if it never fell.
        lowest: the rate at which it was lowest.
        diverged: the rate at which the test ended because the loss rose; None if it did not.
        rates, losses, smoothed: of each step.
    """

    suggested: float | None
    lowest: float | None
    diverged: float | None
    rates: list[float]
    losses: list[float]
    smoothed: list[float]


def running_average(losses: Sequence[float], weight: float = _MEMORY) -> list[float]:
    """Exponential moving averages, corrected for the start."""
    averages, average = [], 0.0
    for number, loss in enumerate(losses, start=1):
        average = weight * average + (1 - weight) * loss
        averages.append(average / (1 - weight**number))
    return averages


def smooth(losses: Sequence[float], width: int = _NEIGHBOURS) -> list[float]:
    """Each loss averaged with its neighbours on both sides, with the weights of a cosine window."""
    found = []
    for place in range(len(losses)):
        near = range(max(0, place - width), min(len(losses), place + width + 1))
        weights = [1 + math.cos(math.pi * (other - place) / (width + 1)) for other in near]
        found.append(sum(w * losses[other] for w, other in zip(weights, near, strict=True)) / sum(weights))
    return found


def rise_at_the_end(losses: Sequence[float]) -> float:
    """How far above its minimum a loss has diverged: by more than it has fallen, and by more than noise."""
    return max(losses[0] - min(losses), abs(losses[0]) / 2)


def evaluate(rates: Sequence[float], losses: Sequence[float], diverged: bool) -> RangeResult:
    """The suggestion for losses measured at increasing rates (Smith 2017, arXiv 1506.01186, section 3.3)."""
    # What diverges at the end must not reach the steps before it.
    highest = losses[0] + rise_at_the_end(losses) if losses else 0.0
    smoothed = smooth([min(loss, highest) for loss in losses])
    best = min(range(len(smoothed)), key=smoothed.__getitem__) if smoothed else 0
    suggested = None
    if best:
        middle = (smoothed[0] + smoothed[best]) / 2
        # The last step above it, since noise may have crossed it before.
        suggested = rates[max(step for step in range(best) if smoothed[step] > middle) + 1]
    return RangeResult(
        suggested=None if suggested is None else float(f"{suggested:.1e}"),
        lowest=rates[best] if best else None,
        diverged=rates[-1] if diverged and rates else None,
        rates=list(rates),
        losses=list(losses),
        smoothed=smoothed,
    )


class LearningRateRange(Callback):
    """Raises the learning rate by the same factor at every optimizer step, and stops when the loss rises.

    Groups of parameters keep the ratios of their rates. The results are `lr_range.json` and `lr_range.png`.

    Args:
        folder: where they are written.
        smallest, largest: the first and the last learning rate; `trainer.max_steps` is the number of steps.
    """

    def __init__(self, folder: str, smallest: Rate = 1e-6, largest: Rate = 10.0) -> None:
        if smallest >= largest:
            raise ConfigError(
                f"callbacks.lr_range.smallest is {smallest}, and must be below callbacks.lr_range.largest, {largest}.",
                key="callbacks.lr_range.smallest",
            )
        self.folder = Path(folder)
        self.smallest, self.largest = smallest, largest
        self._ratios: list[float] = []
        self._rates: list[float] = []
        self._losses: list[float] = []
        self._sum: list[torch.Tensor] = []
        self._ended = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.max_steps < 2:
            raise ConfigError("debug=lr_range needs trainer.max_steps of at least 2.", key="trainer.max_steps")
        groups = trainer.optimizers[0].param_groups
        first = groups[0]["lr"] or 1.0
        self._ratios = [group["lr"] / first if groups[0]["lr"] else 1.0 for group in groups]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        # Here, since a schedule may have set another rate after the step before.
        share = trainer.global_step / (trainer.max_steps - 1)
        rate = math.exp(math.log(self.smallest) + share * math.log(self.largest / self.smallest))
        for group, ratio in zip(optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio
        self._rates.append(rate)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._sum.append((outputs["loss"] if isinstance(outputs, dict) else outputs).detach())
        if len(self._rates) == len(self._losses) or self._ended:
            return  # gradients are still accumulating
        loss = trainer.strategy.reduce(torch.stack(self._sum).mean(), reduce_op="mean")
        self._sum = []
        value = float(loss)
        if not math.isfinite(value):
            self._rates.pop()
            self._ended = trainer.should_stop = True
            return
        self._losses.append(value)
        averages = running_average(self._losses)
        if len(averages) > 10 and averages[-1] - min(averages) > rise_at_the_end(averages):
            self._ended = trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        result = evaluate(self._rates, self._losses, self._ended)
        replace_text(self.folder / "lr_range.json", json.dumps(asdict(result), indent=2) + "\n")
        if result.rates:
            draw(result, self.folder / "lr_range.png")
        console = plain_console(soft_wrap=True)
        for line in describe(result, self.folder):
            console.print(line, highlight=False)


def describe(result: RangeResult, folder: Path) -> list[str]:
    """What the test found, in sentences."""
    picture = f"The picture is {folder / 'lr_range.png'}, the numbers are in lr_range.json."
    if result.suggested is None:
        return [
            "No learning rate lowered the loss. Try another range (callbacks.lr_range.smallest=…), more steps "
            "(trainer.max_steps=…) or larger batches.",
            picture,
        ]
    rises = f" and diverges at {result.diverged:.1e}" if result.diverged is not None else ""
    return [
        f"Suggested learning rate: {result.suggested:g}. The loss has done half of its fall there; it is lowest at "
        f"{result.lowest:.1e}{rises}.",
        f"To use it, replace debug=lr_range by optimizer.lr={result.suggested:g}.",
        picture,
    ]


def draw(result: RangeResult, path: Path) -> Path:
    """Write the picture: loss against learning rate."""
    figure = new_figure("Learning-rate range test", _HEIGHT)
    axes = figure.add_subplot()
    handles = axes.plot(result.rates, result.losses, color=EDGE, linewidth=1.2, label="each step")
    handles += axes.plot(result.rates, result.smoothed, color=SERIES[0], linewidth=2, label="smoothed")
    if result.suggested is not None:
        suggested = f"suggested: {result.suggested:g}"
        handles.append(axes.axvline(result.suggested, color=SERIES[1], linestyle="--", linewidth=2, label=suggested))
    style_axes(axes, "training loss", "learning rate", axis_title("loss"))
    log_axis(axes.xaxis, log_ticks(min(result.rates), max(result.rates)))
    linear_axis(axes.yaxis)
    # What diverges at the end would make everything else flat.
    low, high = min(result.losses), max(result.losses[: max(1, len(result.losses) // 2)])
    axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.4 * (high - low or 1))
    add_legend(axes, handles, WIDE)
    return save_figure(figure, path)

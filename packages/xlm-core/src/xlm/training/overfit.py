"""The verdict of `debug=overfit`: whether a model has learnt its one batch, and what to look at if it has not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from xlm.errors import NotLearntError, as_line
from xlm.metrics import ExactMatch
from xlm.sampling import LogitsSampler
from xlm.training.rng import random_state_of
from xlm.training.sharding import gather_weights, release_weights
from xlm.utils.annotations import Count
from xlm.utils.text_files import read_lines

# Without any prediction: the loss of a learnt batch, as a share of that at the first step. It is not 0: texts have
# different first tokens, and a loss with random masks hides whole texts.
LOSS_LEARNT = 0.05
# Texts are generated to be compared only if the loss is below this share of that at the first step.
LOSS_WORTH_GENERATING = 0.3
# A loss that is lower by a percent counts as progress.
_PROGRESS = 0.99
# Above this share of the first loss, nothing was learnt; below the other, the loss is not the problem.
_HARDLY, _FELL = 0.7, 0.2
_MOST_NAMES = 3
_MOST_CHARACTERS = 80


@dataclass(frozen=True)
class Check:
    """One look at the batch.

    Args:
        step: optimizer steps so far.
        loss: mean training loss since the last check.
        exact: share of exact predictions by name of the loader; None if there are none to compare.
    """

    step: int
    loss: float
    exact: float | None


class OverfitVerdict(Callback):
    """Ends a run on one batch when it is learnt, or after `patience` steps without progress.

    The batch is checked after each validation, which sees the same examples. It is learnt if all predictions are right:
    the lowest exact match of the loaders that have this metric is 1. For texts without such a loader, each text must
    be continued to its end from its first half, token for token. For a model that cannot generate, the loss must fall
    to LOSS_LEARNT of that at the first step.
    """

    def __init__(self, patience: Count = 1000) -> None:
        self.patience = patience
        self.first_loss: float | None = None
        self.checks: list[Check] = []
        self.no_gradient: list[str] = []
        self.num_parameters = 0
        self._sum: Tensor | float = 0.0
        self._num = 0
        self._last_step = 0
        #: Whether the batch has predictions or texts to compare, and not only a loss.
        self.can_compare = False

    @property
    def last(self) -> Check | None:
        return self.checks[-1] if self.checks else None

    @property
    def is_learnt(self) -> bool:
        """Whether the last check found the batch learnt."""
        if self.last is None:
            return False
        if self.last.exact is not None:
            return self.last.exact >= 1
        return self._fallen(self.last.loss) <= LOSS_LEARNT and not self.can_compare

    def _fallen(self, loss: float) -> float:
        """A loss as a share of that at the first step; 1 for losses that may be below 0."""
        return loss / self.first_loss if self.first_loss is not None and self.first_loss > 0 else 1.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the predictor take the most likely token: a draw is wrong now and then although the text is known.

        Only with core's sampler, which is greedy at temperature 0; another one might divide by it.
        """
        config: Any = getattr(pl_module, "config", {})
        parts = getattr(getattr(pl_module, "predictor", None), "__dict__", {})
        ours = any(isinstance(part, LogitsSampler) for part in parts.values())
        if ours and (config.get("predictor") or {}).get("temperature"):
            pl_module.predictor = pl_module.predictor_with({"temperature": 0.0})  # type: ignore[operator]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise NotLearntError(
                "Not learnt: the loss does not depend on any weight, so there is no gradient.\n"
                "Look at loss_fn: it must compute the loss from the network's output without .detach(), .item(), "
                "argmax or torch.no_grad()."
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        # Not at the first step, where a layer that starts at zero hides those before it.
        if trainer.global_step % 50 == 10:
            trained = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
            self.num_parameters = len(trained)
            self.no_gradient = [name for name, p in trained if p.grad is None or not bool(p.grad.any())]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            if self.first_loss is None:
                self.first_loss = _mean(trainer, loss.detach(), 1)
            self._sum, self._num = self._sum + loss.detach(), self._num + 1
        step = trainer.global_step
        if step != self._last_step and not trainer.limit_val_batches and step % 50 == 0:
            self._check(trainer, pl_module)
        self._last_step = step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = self.last
        loss = _mean(trainer, self._sum, self._num) if self._num else last.loss if last else 0.0
        self._sum, self._num = 0.0, 0
        self.checks.append(Check(trainer.global_step, loss, self._exact(trainer, pl_module, loss)))
        if self.is_learnt or self._stands_still():
            trainer.should_stop = True

    def _exact(self, trainer: Trainer, pl_module: LightningModule, loss: float) -> float | None:
        found = list(_exact_matches(trainer, pl_module))
        self.can_compare = bool(found)
        if found:
            return min(found)
        texts = list(_halves(trainer, pl_module))
        predictor: Any = getattr(pl_module, "predictor", None)
        write: Any = getattr(predictor, "continue_text", None)
        self.can_compare = bool(texts) and callable(write)
        if not self.can_compare or self._fallen(loss) > LOSS_WORTH_GENERATING:
            return None
        gather_weights(pl_module)
        with random_state_of(0), torch.inference_mode():
            written = write([text.given for text in texts])
        release_weights(pl_module)
        right = [text.is_continued_by(str(found)) for text, found in zip(texts, written, strict=True)]
        return _mean(trainer, torch.tensor(float(sum(right))), len(right))

    def is_due(self, trainer: Trainer) -> bool:
        """Whether the weights have changed since the last check, or were never checked."""
        return bool(trainer.limit_val_batches) and (self.last is None or self.last.step != trainer.global_step)

    def _stands_still(self) -> bool:
        """Whether the last `patience` steps brought no better prediction and no lower loss.

        A loss that is low enough to be learnt may fall on and on; then only predictions count.
        """
        now = self.checks[-1]
        before = [check for check in self.checks if check.step <= now.step - self.patience]
        since = [check for check in self.checks if check.step > now.step - self.patience]
        if not before:
            return False
        best_exact = max(check.exact or 0.0 for check in before)
        lowest = min(check.loss for check in before)
        reach = lowest * _PROGRESS if self._fallen(lowest) > LOSS_LEARNT else -math.inf
        return all((check.exact or 0.0) <= best_exact and check.loss >= reach for check in since)

    def conclude(self, run_dir: Path) -> str:
        """The verdict on a learnt batch, as a sentence.

        Raises:
            NotLearntError: the batch is not learnt; with the loss, and what to look at.
        """
        last = self.last
        if last is None:
            raise NotLearntError("Not learnt: the run ended before the first check.")
        steps = f"after {last.step:,} {'step' if last.step == 1 else 'steps'}"
        if self.is_learnt and last.exact is not None:
            return f"Learnt by heart: exact match 1.00 on the one batch {steps}."
        first = self.first_loss if self.first_loss is not None else last.loss
        if self.is_learnt:
            return (
                f"Learnt by heart: the loss on the one batch fell from {first:.2f} to {last.loss:.3g} {steps}. "
                "The model has no predictions to compare."
            )
        exact = "" if last.exact is None else f"exact match {last.exact:.2f} on the one batch, "
        lines = [f"Not learnt: {exact}loss stands at {last.loss:.3g} {steps} (first step: {first:.3g}). Look at:"]
        lines += [f"  - {cause}" for cause in self._causes(run_dir)]
        raise NotLearntError("\n".join(lines))

    def _causes(self, run_dir: Path) -> Iterator[str]:
        last = self.checks[-1]
        fallen = self._fallen(last.loss)
        if self.no_gradient:
            more = f" and {len(self.no_gradient) - _MOST_NAMES} more" if len(self.no_gradient) > _MOST_NAMES else ""
            yield (
                f"{len(self.no_gradient)} of {self.num_parameters} weights without a gradient "
                f"({', '.join(self.no_gradient[:_MOST_NAMES])}{more}): detached, or not used by the loss?"
            )
        if fallen > _HARDLY:
            yield (
                "the loss, which hardly fell: are its targets the tokens to predict, at the positions of the network's "
                "output for them? Does the network see the prompt (attention mask)?"
            )
        elif fallen > _FELL or last.exact is None:
            yield (
                "what the network cannot tell apart: does it see the whole prompt and the positions, and are the "
                "targets the same whenever an example comes back?"
            )
        else:
            yield (
                "the predictor, as the loss fell: does it give the network the rows that training has (BOS, positions, "
                "masks), and read the output at the positions that the loss trains, not one beside?"
            )
        if example := _wrong_example(run_dir, last.step):
            yield example
        if self._stands_still():
            yield f"optimizer.lr: nothing improved in the last {self.patience:,} steps."
        else:
            yield "trainer.max_steps: the run ended before the loss and the predictions stood still."


@dataclass(frozen=True)
class _Text:
    """The first half of a text, and the rest; `is_cut` if the text is longer than the model's block."""

    given: str
    rest: str
    is_cut: bool

    def is_continued_by(self, found: str) -> bool:
        found, rest = found.strip(), self.rest.strip()
        return found.startswith(rest) if self.is_cut else found == rest


def _halves(trainer: Trainer, pl_module: LightningModule) -> Iterator[_Text]:
    """The texts of this rank's batch, each divided where its beginning is unlike all others and survives decoding."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    tokenizer: Any = pl_module.tokenizer
    found = datamodule.first_loader("val", "loss")
    if found is None or not trainer.val_dataloaders:
        return
    loader = trainer.val_dataloaders[found[0]]
    rows = [row["input_ids"] for number in range(len(loader)) for row in loader.rows_of_batch(number)]
    block: Any = pl_module.config.get("block_size")  # type: ignore[union-attr, operator]
    room = None if block is None else int(block) - 2  # BOS and EOS
    texts = {tuple(int(token) for token in row[:room]): room is not None and len(row) > room for row in rows}
    for ids, is_cut in texts.items():
        for middle in range((len(ids) + 1) // 2, len(ids)):
            start = ids[:middle]
            if any(other[:middle] == start for other in texts if other != ids):
                continue
            given = tokenizer.decode(list(start))
            if list(tokenizer(given, add_special_tokens=False)["input_ids"]) == list(start):
                yield _Text(given, tokenizer.decode(list(ids[middle:]), skip_special_tokens=True), is_cut)
                break


def _exact_matches(trainer: Trainer, pl_module: LightningModule) -> Iterator[float]:
    """The newest exact match of each validation loader that has one."""
    metrics: Any = getattr(pl_module, "metrics", {})
    for place, wrappers in metrics.items():
        for wrapper in wrappers if place.startswith("val/") else ():
            name = wrapper.full_name(place)
            if isinstance(wrapper.metric, ExactMatch) and name in trainer.callback_metrics:
                yield float(trainer.callback_metrics[name])


def _mean(trainer: Trainer, total: Tensor | float, num: int) -> float:
    """Sum over all processes, divided by the number over all processes."""
    device = trainer.strategy.root_device
    pair = torch.stack([torch.as_tensor(total, device=device).float(), torch.tensor(float(num), device=device)])
    summed = trainer.strategy.reduce(pair, reduce_op="sum")
    assert isinstance(summed, Tensor)
    return float(summed[0] / summed[1])


def _wrong_example(run_dir: Path, step: int) -> str | None:
    """The first wrong prediction of the last validation, and the file with all of them."""
    for path in sorted((run_dir / "predictions" / "val").glob(f"*/step_{step:08d}.jsonl")):
        for line in read_lines(path):
            row = json.loads(line.text)
            prediction, truth = row.get("prediction", row.get("text")), row.get("truth")
            if isinstance(prediction, str) and isinstance(truth, str) and prediction != truth:
                return f"{path}, such as {_short(prediction)} instead of {_short(truth)}"
    return None


def _short(text: str) -> str:
    shown = as_line(text)
    return repr(shown if len(shown) <= _MOST_CHARACTERS else shown[:_MOST_CHARACTERS] + " …")


def verdict_of(trainer: Trainer) -> OverfitVerdict | None:
    """The verdict among the callbacks of a trainer; None for a run that is not on one batch."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, OverfitVerdict)), None)

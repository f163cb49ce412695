"""One optimizer step as one mean over all its loss terms, for any split into micro-batches and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed
from torch.optim import Optimizer

from xlm.utils.rank_zero import warn_once

NOT_COUNTED = (
    "The loss returns no 'num_loss_terms', so every micro-batch and every process has the same weight in an optimizer "
    "step, for any number of terms in its mean.\n"
    "Return the number of terms in the mean 'loss', so that the step uses the mean over all of them."
)
SEVERAL_LOADERS = (
    "There are several train loaders, whose losses are added, so every micro-batch and every process has the "
    "same weight in an optimizer step, for any number of terms in its means.\n"
    "Use one train loader to take the mean over all terms."
)


class LossTerms:
    """Weights each micro-batch by its number of loss terms n, and divides the final gradient by the mean of n.

    Lightning averages the gradients of A micro-batches, and DDP those of W processes. A micro-batch's loss is a mean
    over n terms, and n differs, so an average of such means is not the mean over all terms. Here the averaged
    gradients are those of n · loss, and

        (1 / AW) Σ n ∇loss · AW / Σ n = ∇ (Σ n · loss / Σ n)

    where the sums are over all micro-batches and processes of the step.

    The weight is actually n / unit, which cancels; it keeps the loss near its original size, for half precision. The
    unit is the same on all ranks, since DDP averages before Σ n is known, and it is a power of two, so that dividing
    by it does not round. So no result depends on the unit, and a resumed run, which finds its own unit, gives the same
    weights as an uninterrupted one.
    """

    def __init__(self) -> None:
        self._agreed = False
        # None: not all processes know their number of terms.
        self._unit: float | None = None
        # The weight of the next micro-batch to be back-propagated.
        self._weight: Tensor | None = None
        # The weights of this process's micro-batches since the last optimizer step.
        self._total: Tensor | None = None

    def weigh(self, outputs: Mapping[str, Any], is_first: bool) -> Tensor:
        """Record the weight of a micro-batch; returns its loss, which is 0 without a gradient if it has no terms.

        Args:
            outputs: `loss`, a scalar, and `num_loss_terms`, a number or a scalar tensor.
            is_first: whether it is the first micro-batch of an optimizer step.
        """
        loss: Tensor = outputs["loss"]
        terms: Tensor | float | None = outputs.get("num_loss_terms")
        if not self._agreed:
            self._agree(terms, loss.device)
        if self._unit is None:
            return loss
        # A micro-batch without this number counts like an average one.
        weight = _scalar(self._unit if terms is None else terms, loss.device) / self._unit
        self._weight = weight
        self._total = weight if is_first or self._total is None else self._total + weight
        return _zero_without_terms(loss, weight > 0) if isinstance(terms, Tensor) or terms == 0 else loss

    def weighted(self, loss: Tensor) -> Tensor:
        """The value to back-propagate for the loss of the micro-batch that was weighted last."""
        weight, self._weight = self._weight, None
        return loss if weight is None else loss * weight

    @torch.no_grad()
    def divide(self, optimizer: Optimizer, num_parts: int) -> None:
        """Convert the averaged gradients to that of the mean over all terms; zeros if there are none.

        Args:
            optimizer: the gradients of its parameters are changed, in place.
            num_parts: A · W, the divisor of Lightning and DDP.
        """
        if self._total is None:
            return
        total = self._total.clone()
        if _num_processes() > 1:
            distributed.all_reduce(total)
        factor = torch.where(total > 0, num_parts / total, 0)
        for gradients in _gradients(optimizer):
            torch._foreach_mul_(gradients, factor.to(gradients[0].device))

    def _agree(self, terms: Tensor | float | None, device: torch.device) -> None:
        """Decide once, with all processes, whether terms are counted, and find the unit. Waits for the device."""
        self._agreed = True
        sums = torch.stack([_scalar(0 if terms is None else terms, device), _scalar(terms is not None, device)])
        if _num_processes() > 1:
            distributed.all_reduce(sums)
        num_terms, num_counting = sums.tolist()
        if num_counting < _num_processes():
            warn_once(NOT_COUNTED)
            return
        self._unit = 2.0 ** round(math.log2(max(1.0, num_terms / num_counting)))


class TermWeightedModule(LightningModule):
    """A Lightning module whose optimizer steps are means over all loss terms, if its `training_step` calls `_weigh`.

    With one batch of one process per step, and under manual optimization, it behaves like any Lightning module.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loss_terms = LossTerms()

    def _weigh(self, outputs: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """The return value of `training_step`; records the weight of its micro-batch."""
        if self._num_parts == 1:
            return outputs
        is_first = batch_idx % self.trainer.accumulate_grad_batches == 0
        return {**outputs, "loss": self._loss_terms.weigh(outputs, is_first)}

    @property
    def _num_parts(self) -> int:
        """Micro-batches times processes that Lightning averages for an optimizer step; 1 without averaging."""
        trainer = self._trainer
        if trainer is None or not self.automatic_optimization or trainer.strategy.handles_gradient_accumulation:
            return 1
        return trainer.accumulate_grad_batches * trainer.world_size

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Back-propagate the loss with its weight in the optimizer step."""
        super().backward(self._loss_terms.weighted(loss), *args, **kwargs)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One step. Gradients are rescaled at the end of the closure, before any hook or clipping uses them."""
        if optimizer_closure is None or self._num_parts == 1:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return

        def closure() -> Any:
            result = optimizer_closure()
            self._loss_terms.divide(optimizer, self._num_parts)
            return result

        super().optimizer_step(epoch, batch_idx, optimizer, closure)


def _scalar(value: Tensor | float, device: torch.device) -> Tensor:
    """() float32, created without waiting for the device."""
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float32).reshape(())
    return torch.full((), float(value), device=device)


def _num_processes() -> int:
    is_group = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_group else 1


def _gradients(optimizer: Optimizer) -> list[list[Tensor]]:
    """An optimizer's gradients, grouped so that one operation can process each group."""
    found: dict[Any, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (gradient := parameter.grad) is not None:
                found.setdefault((gradient.device, gradient.dtype, type(gradient)), []).append(gradient)
    return list(found.values())


def _zero_without_terms(loss: Tensor, has_terms: Tensor) -> Tensor:
    """The loss; without terms, 0 with a gradient of 0, although the mean 0/0 and its gradient are not numbers."""
    if loss.grad_fn is not None:
        _cut(loss.grad_fn, has_terms)
    return torch.where(has_terms, loss, 0)


def _cut(node: Any, has_terms: Tensor) -> None:
    """Make the output gradients of an autograd node zero without terms, also of its inputs while they are scalars.

    The division by the number of terms is among these nodes: its gradient is 0/0 even for an incoming gradient of 0.
    """
    # Not the node itself, which would then reference itself.
    following = [function for function, _ in node.next_functions]

    def zero(passed_on: tuple[Tensor | None, ...], _: Any) -> tuple[Tensor | None, ...]:
        for function, gradient in zip(following, passed_on, strict=False):
            if gradient is not None and gradient.ndim == 0 and function.next_functions:
                _cut(function, has_terms)
        return tuple(None if gradient is None else torch.where(has_terms, gradient, 0) for gradient in passed_on)

    node.register_hook(zero)

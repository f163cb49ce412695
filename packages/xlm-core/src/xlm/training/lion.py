"""Lion: every weight moves by the same amount, in the direction of the sign of its momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lion(Optimizer):
    """Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675), Algorithm 2.

    With gradient g, momentum m, learning rate η and weight decay λ:

        c ← β1 m + (1 − β1) g;  θ ← θ − η (sign(c) + λ θ);  m ← β2 m + (1 − β2) g

    The state has one value per weight, half of AdamW's. The paper recommends a learning rate 3 to 10 times smaller than
    AdamW's, and a weight decay larger by the same factor.

    Args:
        params: parameters, or groups of them.
        lr: η.
        betas: (β1, β2), each in [0, 1).
        weight_decay: λ, decoupled from the gradient.

    Raises:
        ValueError: a value is outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-5,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.1,
    ) -> None:
        if lr < 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        for index, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if weight_decay < 0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all parameters that have a gradient."""
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                momentum: Tensor = state["momentum_buffer"]
                direction = momentum.lerp(p.grad, 1 - beta1).sign_()
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(p.grad, 1 - beta2)
        return loss

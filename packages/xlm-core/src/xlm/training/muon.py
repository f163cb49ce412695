"""Muon for the matrices of stacked layers, AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.optim import AdamW

# Coefficients of the quintic iteration: its slope at 0 is as large as can be while singular values stay near 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7


class MuonWithAdamW(AdamW):
    """Steps of the matrices in stacked layers are orthogonalised momentum; all other parameters take AdamW's.

    The update of a matrix is 0.2 · √max(rows, columns) · orthogonal(momentum), whose root mean square is that of an
    AdamW step, so one learning rate serves both (arXiv 2502.16982, section 2.2; Muon: Jordan et al. 2024). Unlike
    `torch.optim.Muon` it works in float32, which on a CPU is many times faster, and takes whole models.

    Args:
        params: groups; those with `stacked=True` hold matrices only. `split_groups` makes them.
        lr, betas, eps, weight_decay: as of AdamW; weight decay is decoupled for both kinds.
        momentum: of the matrices, with Nesterov's correction.
        iterations: Newton-Schulz steps.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        iterations: int = 5,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        for group in self.param_groups:
            group.setdefault("stacked", False)
            group.setdefault("momentum", momentum)
            group.setdefault("iterations", iterations)
            if group["stacked"] and any(p.ndim != 2 for p in group["params"]):
                raise ValueError("A group with stacked=True may hold matrices only.")

    @staticmethod
    def split_groups(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
        """Each group as two: the matrices of the model's stacked layers, and the rest."""
        matrices = {id(p) for p in stacked_matrices(model)}
        split = []
        for group in groups:
            for stacked in (True, False):
                members = [p for p in group["params"] if (id(p) in matrices) == stacked]
                if members:
                    split.append({**group, "params": members, "stacked": stacked})
        return split

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all parameters that have a gradient."""
        loss: float | None = None
        if closure is not None:
            # Before any group is put aside: whoever clips gradients inside the closure has to see all parameters.
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["stacked"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["stacked"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())  # AdamW looks for it in every state that it loads
                state["momentum_buffer"] = torch.zeros_like(p)
            state["step"] += 1
            buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
            direction = p.grad.lerp(buffer, group["momentum"])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            for part, weight in zip(_parts(direction), _parts(p), strict=True):
                scale = 0.2 * max(part.shape) ** 0.5
                weight.add_(orthogonal(part, group["iterations"]), alpha=-group["lr"] * scale)


def stacked_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear maps inside any `nn.ModuleList` of a model: no embedding, no output layer."""
    found: dict[int, nn.Parameter] = {}
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for module in stack.modules():
                if isinstance(module, nn.Linear) and module.weight.requires_grad:
                    found[id(module.weight)] = cast(nn.Parameter, module.weight)
    return list(found.values())


def _parts(matrix: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values apart where one matrix makes all three: they are three maps."""
    rows, columns = matrix.shape
    return tuple(matrix.chunk(3 if rows == 3 * columns else 1))


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The matrix with its singular values moved to about 1 (0.7 to 1.2), by Newton-Schulz iteration."""
    x = matrix.float()
    x = x / (x.norm() + _EPS)
    if x.shape[0] > x.shape[1]:
        return orthogonal(matrix.T, iterations).T
    for _ in range(iterations):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.to(matrix.dtype)

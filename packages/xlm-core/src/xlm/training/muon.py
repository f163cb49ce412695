"""Muon for the matrices of stacked layers, AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW

# Coefficients of the quintic iteration: its slope at 0 is as large as can be while singular values stay near 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7


class MuonWithAdamW(AdamW):
    """Steps of the matrices in stacked layers are orthogonalised momentum; all other parameters take AdamW's.

    The update of a matrix is 0.2 · √max(rows, columns) · orthogonal(momentum), whose root mean square is that of an
    AdamW step, so one learning rate serves both (arXiv 2502.16982, section 2.2; Muon: Jordan et al. 2024). On a plain
    matrix it is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which takes neither whole models nor matrices
    that hold several maps, and works in bfloat16 on a CPU too, where float32 is many times faster.

    Args:
        params: groups; those with `stacked=True` hold matrices only. Their `num_maps`, parameter → number, says which
            matrices hold several maps, one below the other: each is orthogonalised on its own. `split_groups` makes
            these groups.
        lr, betas, eps, weight_decay: as of AdamW; weight decay is decoupled for both kinds.
        momentum: of the matrices, with Nesterov's correction.
        iterations: Newton-Schulz steps.
        fused: as of AdamW, for the other parameters.
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
        fused: bool | None = None,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"Invalid momentum: {momentum}, and must be in [0, 1)")
        if iterations < 0:
            raise ValueError(f"Invalid iterations: {iterations}")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
        # Beside the groups, because it follows from the network: a state has no need of it.
        self._num_maps: dict[Tensor, int] = {}
        for group in self.param_groups:
            self._num_maps |= group.pop("num_maps", {})
            group.setdefault("stacked", False)
            group.setdefault("momentum", momentum)
            group.setdefault("iterations", iterations)
            if group["stacked"] and any(p.ndim != 2 for p in group["params"]):
                raise ValueError("A group with stacked=True may hold matrices only.")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_num_maps": self._num_maps}

    @staticmethod
    def split_groups(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
        """Each group as two: the matrices of the model's stacked layers, and the rest."""
        num_maps = stacked_matrices(model)
        split = []
        for group in groups:
            for stacked in (True, False):
                members = [p for p in group["params"] if (p in num_maps) == stacked]
                if members:
                    split.append({**group, "params": members, "stacked": stacked})
                    if stacked:
                        split[-1]["num_maps"] = {p: num_maps[p] for p in members}
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
            num_maps = self._num_maps.get(p, 1)
            if isinstance(direction, DTensor):
                _step_shard(p, direction, num_maps, group)
                continue
            for part, weight in zip(_maps(direction, num_maps), _maps(p, num_maps), strict=True):
                scale = 0.2 * max(part.shape) ** 0.5
                weight.add_(orthogonal(part, group["iterations"]), alpha=-group["lr"] * scale)


def _step_shard(p: Tensor, direction: DTensor, num_maps: int, group: dict[str, Any]) -> None:
    """Step the part of a split matrix that this process owns.

    A matrix is orthogonalised as a whole, so every process computes the whole update.
    """
    updates = [
        orthogonal(part, group["iterations"]) * (group["lr"] * 0.2 * max(part.shape) ** 0.5)
        for part in _maps(direction.full_tensor(), num_maps)
    ]
    split = distribute_tensor(torch.cat(updates), direction.device_mesh, direction.placements, src_data_rank=None)
    assert isinstance(p, DTensor)
    p.to_local().sub_(split.to_local())


def stacked_matrices(model: nn.Module) -> dict[nn.Parameter, int]:
    """Weights of the linear maps inside any `nn.ModuleList` of a model, and how many maps each holds.

    No embedding, no output layer. A module whose linear map does the work of several, such as queries, keys and
    values, says so in its attribute `fused_maps`: name → number, the maps one below the other in the weight. It is
    asked of modules, because what is set on a parameter is lost when a layer is copied.
    """
    fused: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for name, number in getattr(module, "fused_maps", {}).items():
            fused[getattr(module, name).weight] = number
    found: dict[nn.Parameter, int] = {}
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for module in stack.modules():
                if isinstance(module, nn.Linear) and module.weight.requires_grad:
                    weight = cast(nn.Parameter, module.weight)
                    found[weight] = fused.get(weight, 1)
    return found


def _maps(matrix: Tensor, number: int) -> tuple[Tensor, ...]:
    """A matrix cut into that many of the same number of rows."""
    return matrix.unflatten(0, (number, -1)).unbind(0)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The matrix with its singular values moved to about 1 (0.7 to 1.2), by Newton-Schulz iteration.

    In bfloat16 on CUDA, as the iteration was made for; in float32 elsewhere.
    """
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    x = x / (x.norm() + _EPS)
    if x.shape[0] > x.shape[1]:
        return orthogonal(matrix.T, iterations).T
    for _ in range(iterations):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.to(matrix.dtype)

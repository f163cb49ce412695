"""The operators of `linear_cross_entropy` for large vocabularies: the loss by chunks of rows, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xlm.modules.head_logits import head_logits


def _chunk_losses(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss per row (0 where ignored), its logsumexp, targets fit for indexing, and which rows count."""
    counts = targets != ignore_index
    safe = torch.where(counts, targets, 0)
    lse = logits.logsumexp(dim=-1)
    losses = torch.where(counts, lse - logits.gather(1, safe.unsqueeze(1)).squeeze(1), 0)
    return losses, lse, safe, counts


def _logits_to_grad(logits: Tensor, lse: Tensor, safe: Tensor, scale: Tensor) -> Tensor:
    """(softmax − one-hot) · scale per row, in place of the logits."""
    grad = logits.sub_(lse.unsqueeze(1)).exp_()
    grad.scatter_add_(1, safe.unsqueeze(1), grad.new_full((grad.shape[0], 1), -1.0))
    return grad.mul_(scale.unsqueeze(1))


class _Gradients:
    """Gradients of hidden, weight and bias, filled chunk by chunk."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.hidden = torch.empty_like(hidden)
        self.weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        self.bias = self.weight.new_zeros(0 if bias is None else weight.shape[0])

    def add(self, rows: slice, grad_logits: Tensor, hidden: Tensor, weight: Tensor) -> None:
        narrow = grad_logits.to(weight.dtype)
        torch.mm(narrow, weight, out=self.hidden[rows])
        if self.weight.dtype == weight.dtype:
            self.weight.addmm_(narrow.t(), hidden)
        else:
            self.weight += narrow.t() @ hidden
        if self.bias.numel():
            self.bias += grad_logits.sum(dim=0)


def _no_autocast(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


_ARGUMENTS = (
    "(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, int ignore_index, int chunk_rows, "
    "int[] exclude_ids, bool needs_grad)"
)


# Custom operators rather than autograd functions: opaque to torch.compile, for any number of rows.
@torch.library.custom_op(
    "xlm::summed_linear_cross_entropy",
    mutates_args=(),
    schema=f"{_ARGUMENTS} -> (Tensor, Tensor, Tensor, Tensor)",
)
def summed_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int,
    chunk_rows: int,
    exclude_ids: Sequence[int],
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Σ losses, and its gradients, made while the chunk's logits are there: no second pass over the vocabulary."""
    empty = (hidden[:0].clone(), weight[:0].clone(), weight.new_zeros(0))
    grads = _Gradients(hidden, weight, bias) if needs_grad else None
    total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    with _no_autocast(hidden):
        for start in range(0, hidden.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = head_logits(hidden[rows], weight, bias, exclude_ids)
            losses, lse, safe, counts = _chunk_losses(logits, targets[rows], ignore_index)
            total += losses.sum()
            if grads is not None:
                grad_logits = _logits_to_grad(logits, lse, safe, counts.to(logits.dtype))
                grads.add(rows, grad_logits, hidden[rows], weight)
    return (total, *empty) if grads is None else (total, grads.hidden, grads.weight, grads.bias)


@torch.library.custom_op("xlm::linear_cross_entropy_rows", mutates_args=(), schema=f"{_ARGUMENTS} -> (Tensor, Tensor)")
def row_losses(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int,
    chunk_rows: int,
    exclude_ids: Sequence[int],
    needs_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Loss and logsumexp per row; what comes from above differs per row, so the logits are made again backwards."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    losses, lses = (hidden.new_empty(hidden.shape[0], dtype=dtype) for _ in range(2))
    with _no_autocast(hidden):
        for start in range(0, hidden.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = head_logits(hidden[rows], weight, bias, exclude_ids)
            losses[rows], lses[rows], _, _ = _chunk_losses(logits, targets[rows], ignore_index)
    return losses, lses


@torch.library.custom_op(
    "xlm::linear_cross_entropy_rows_backward",
    mutates_args=(),
    schema=(
        "(Tensor upstream, Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor lses, "
        "int ignore_index, int chunk_rows, int[] exclude_ids) -> (Tensor, Tensor, Tensor)"
    ),
)
def _row_losses_backward(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    lses: Tensor,
    ignore_index: int,
    chunk_rows: int,
    exclude_ids: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _Gradients(hidden, weight, bias)
    scale = torch.where(targets != ignore_index, upstream, 0)
    safe = torch.where(targets != ignore_index, targets, 0)
    with _no_autocast(hidden):
        for start in range(0, hidden.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = head_logits(hidden[rows], weight, bias, exclude_ids)
            grads.add(rows, _logits_to_grad(logits, lses[rows], safe[rows], scale[rows]), hidden[rows], weight)
    return grads.hidden, grads.weight, grads.bias


def _wide(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.promote_types(x.dtype, torch.float32))


@summed_loss.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    if not rest[-1]:
        return (
            _wide(hidden),
            hidden.new_empty(0, hidden.shape[1]),
            weight.new_empty(0, weight.shape[1]),
            weight.new_empty(0),
        )
    return (
        _wide(hidden),
        torch.empty_like(hidden),
        _wide(weight, *weight.shape),
        _wide(weight, 0 if bias is None else weight.shape[0]),
    )


@row_losses.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _wide(hidden, hidden.shape[0]), _wide(hidden, hidden.shape[0])


@_row_losses_backward.register_fake
def _(upstream: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(hidden), _wide(weight, *weight.shape), _wide(weight, 0 if bias is None else weight.shape[0])


def _summed_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.dtypes = (inputs[1].dtype, None if inputs[2] is None else inputs[2].dtype)
    for grad in output[1:]:
        ctx.mark_non_differentiable(grad)


def _summed_backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    hidden, weight, bias = ctx.saved_tensors
    weight_dtype, bias_dtype = ctx.dtypes
    grad_bias = None if bias_dtype is None else (bias * upstream).to(bias_dtype)
    scaled = ((hidden * upstream).to(hidden.dtype), (weight * upstream).to(weight_dtype))
    return (*scaled, grad_bias, None, None, None, None, None)


def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, weight, bias, targets, ctx.ignore_index, ctx.chunk_rows, ctx.exclude_ids, _ = inputs
    ctx.save_for_backward(hidden, weight, bias, targets, output[1])
    ctx.mark_non_differentiable(output[1])


def _rows_backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    hidden, weight, bias, targets, lses = ctx.saved_tensors
    options = (ctx.ignore_index, ctx.chunk_rows, ctx.exclude_ids)
    grads = _row_losses_backward(upstream, hidden, weight, bias, targets, lses, *options)
    grad_bias = None if bias is None else grads[2].to(bias.dtype)
    return (grads[0], grads[1].to(weight.dtype), grad_bias, None, None, None, None, None)


summed_loss.register_autograd(_summed_backward, setup_context=_summed_setup)
row_losses.register_autograd(_rows_backward, setup_context=_rows_setup)

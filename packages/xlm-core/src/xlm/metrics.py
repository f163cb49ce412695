"""Metrics that don't depend on how examples are batched, and functions that compute their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Integer
from torch import Tensor, nn
from torchmetrics import Metric

from xlm.errors import ConfigError
from xlm.sampling import sampling_dtype
from xlm.utils.imports import get_function

UpdateFn = Callable[..., Mapping[str, Any]]

IGNORED = -100


class MetricWrapper(nn.Module):
    """A metric with its name and the function that turns a batch and its outputs into the metric's arguments.

    Args:
        name: the last part of the logged key.
        metric: any torchmetrics metric.
        update_fn: `fn(batch, outputs, tokenizer, **extra) -> kwargs of metric.update`, or its dotted path.
        prefix: comes before the name in the logged key; None lets the harness set it.
    """

    def __init__(self, name: str, metric: Metric, update_fn: str | UpdateFn, prefix: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.metric = metric
        self.update_fn: UpdateFn = get_function(update_fn) if isinstance(update_fn, str) else update_fn
        self.prefix = prefix

    def full_name(self, prefix: str | None = None) -> str:
        """`prefix/name`; the wrapper's own prefix has priority."""
        place = self.prefix or prefix
        return f"{place}/{self.name}" if place else self.name

    def update(
        self, batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **extra: Any
    ) -> None:
        """Count one batch. ConfigError if the update function needs a key that is missing."""
        try:
            arguments = self.update_fn(batch, loss_dict, tokenizer, **extra)
        except KeyError as error:
            raise ConfigError(
                f"Metric '{self.full_name()}' needs {error}, which is missing.\n"
                f"The batch has: {', '.join(map(str, batch))}. The outputs have: {', '.join(map(str, loss_dict))}.\n"
                "Attach the metric to another dataloader, or give it another update_fn."
            ) from error
        self.metric.update(**arguments)

    def compute(self) -> Any:
        """The metric over everything since the last reset, on all ranks."""
        return self.metric.compute()

    def reset(self) -> None:
        """Reset the metric."""
        self.metric.reset()


class RatioMetric(Metric):
    """Σ part / Σ whole over groups (examples, or batches if only their means are known), with a standard error."""

    is_differentiable = False
    full_state_update = False
    # Number of groups, Σ part, Σ whole, Σ part², Σ part · whole, Σ whole².
    moments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("moments", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def count_groups(self, part: Tensor, whole: Tensor) -> None:
        """Add the part and the whole of each group; groups whose whole is 0 don't count."""
        p, w = part.flatten().to(self.moments.dtype), whole.flatten().to(self.moments.dtype)
        is_group = w != 0
        p = torch.where(is_group, p, 0)  # not by indexing, which would wait for the device
        terms = (is_group.to(w.dtype), p, w, p * p, p * w, w * w)
        self.moments += torch.stack([term.sum() for term in terms])

    def estimate_error(self) -> tuple[int, float]:
        """The number of groups on all ranks, and the standard error of the ratio over them (Cochran 1977, eq. 6.13).

        NaN for fewer than two groups. For shares of equally large groups it is the binomial standard error.
        """
        with self.sync_context():
            n, p, w, pp, pw, ww = self.moments.tolist()
        if n < 2 or w == 0:
            return int(n), math.nan
        ratio = p / w
        return int(n), math.sqrt(max(0.0, pp - 2 * ratio * pw + ratio * ratio * ww) * n / (n - 1)) / abs(w)

    def _apply(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> nn.Module:
        dtype = sampling_dtype(fn(torch.zeros(0)).device)
        for name, default in list(self._defaults.items()):
            # Converted before the move, since the device may not support the type.
            if isinstance(default, Tensor) and default.is_floating_point():
                self._defaults[name] = default.to(dtype)
                setattr(self, name, getattr(self, name).to(dtype))
        return super()._apply(fn, *args, **kwargs)


class _Share(RatioMetric):
    """A share of correct items: counts that add up over batches and ranks; subclasses define the items."""

    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("correct", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def count(self, correct: Integer[Tensor, "batch"], total: Integer[Tensor, "batch"]) -> None:
        """Count `correct` of `total` items in each example."""
        self.correct += correct.sum()
        self.total += total.sum()
        self.count_groups(correct, total)

    def compute(self) -> Tensor:
        """correct / total; NaN without data."""
        return _ratio(self.correct, self.total)


class ExactMatch(_Share):
    """Share of examples whose prediction equals the whole target, without missing or additional tokens."""

    def update(
        self,
        pred: Integer[Tensor, "batch pred_width"],
        target: Integer[Tensor, "batch target_width"],
        pred_length: Integer[Tensor, "batch"] | None = None,
        target_length: Integer[Tensor, "batch"] | None = None,
    ) -> None:
        """Count rows. Only the first `…_length` tokens of a row belong to it (None: all)."""
        width = min(pred.shape[1], target.shape[1])
        pred_end = _lengths(pred, pred_length)
        target_end = _lengths(target, target_length)
        inside = torch.arange(width, device=target.device) < target_end.unsqueeze(-1)
        differs = ((pred[:, :width] != target[:, :width]) & inside).any(dim=-1)
        matches = ((pred_end == target_end) & ~differs).long()
        self.count(matches, torch.ones_like(matches))


class TokenAccuracy(_Share):
    """Share of target tokens that the prediction has at the same position; a missing token is wrong."""

    def update(
        self,
        pred: Integer[Tensor, "batch pred_width"],
        target: Integer[Tensor, "batch target_width"],
        pred_mask: Bool[Tensor, "batch pred_width"] | None = None,
        target_mask: Bool[Tensor, "batch target_width"] | None = None,
        pred_length: Integer[Tensor, "batch"] | None = None,
        target_length: Integer[Tensor, "batch"] | None = None,
    ) -> None:
        """Count tokens. Lengths and masks mark the tokens that exist (None: all).

        pred_mask alone, without lengths or mask of the target, marks the positions that are scored.
        """
        width = target.shape[1]
        if pred_mask is not None and target_mask is None and target_length is None:
            target_mask = _widened(pred_mask, width, False)
        scored = _present(target, target_mask, target_length)
        present = _widened(_present(pred, pred_mask, pred_length), width, False)
        same = _widened(pred, width, IGNORED) == target
        self.count((same & present & scored).sum(dim=-1), scored.sum(dim=-1))


class TokenWeightedMean(RatioMetric):
    """Σ weight · value / Σ weight in float64: a corpus mean if a value is a mean over `weight` terms."""

    weighted_sum: Tensor
    weight_sum: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("weighted_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor | float | int, weight: Tensor | float | int = 1) -> None:
        """Count a value, or several, with weights that broadcast; a value of weight 0 may be NaN."""
        like = self.weighted_sum
        values = _as_tensor(value, like)
        weights = _as_tensor(weight, like).expand_as(values)
        parts = torch.where(weights == 0, 0, weights * values)
        self.weighted_sum += parts.sum()
        self.weight_sum += weights.sum()
        self.count_groups(parts, weights)

    def compute(self) -> Tensor:
        """The mean; NaN without data."""
        return self.weighted_sum / self.weight_sum


def _as_tensor(value: Tensor | float | int, like: Tensor) -> Tensor:
    """On the device and in the type of `like`; a number is filled in there, since a copy would wait for the device."""
    if isinstance(value, Tensor):
        return value.detach().to(like)
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _lengths(ids: Tensor, length: Tensor | None) -> Tensor:
    return ids.new_full((ids.shape[0],), ids.shape[1]) if length is None else length.to(ids.device)


def _present(ids: Tensor, mask: Tensor | None, length: Tensor | None) -> Tensor:
    inside = torch.arange(ids.shape[1], device=ids.device) < _lengths(ids, length).unsqueeze(-1)
    return inside if mask is None else inside & mask


def _widened(rows: Tensor, width: int, filler: int | bool) -> Tensor:
    """Exactly `width` columns: cut or padded on the right."""
    missing = width - rows.shape[1]
    return nn.functional.pad(rows, (0, missing), value=filler) if missing > 0 else rows[:, :width]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    dtype = sampling_dtype(part.device)
    return part.to(dtype) / whole.to(dtype)


def content_length(
    ids: Integer[Tensor, "batch length"], eos_token_id: int, pad_token_id: int
) -> Integer[Tensor, "batch"]:
    """Tokens of each row before its first EOS; without EOS, tokens before the final padding."""
    if ids.shape[1] == 0:
        return ids.new_zeros(ids.shape[0])
    position = torch.arange(ids.shape[1], device=ids.device)
    first_eos = torch.where(ids == eos_token_id, position, ids.shape[1]).amin(dim=-1)
    is_filler = (ids == pad_token_id) | (ids == IGNORED)
    end = torch.where(is_filler, 0, position + 1).amax(dim=-1)
    return torch.minimum(first_eos, end)


def rows_from(
    ids: Integer[Tensor, "batch length"], start: int | Integer[Tensor, "*batch_or_one"], pad_token_id: int
) -> Integer[Tensor, "batch rest"]:
    """Each row from its own start, left-aligned and padded."""
    if not isinstance(start, Tensor):
        return ids[:, start:]
    if ids.shape[1] == 0:
        return ids
    position = torch.arange(ids.shape[1], device=ids.device) + start.to(ids.device).reshape(-1, 1)
    moved = ids.gather(1, position.clamp(max=ids.shape[1] - 1).expand(ids.shape[0], -1))
    return moved.masked_fill(position >= ids.shape[1], pad_token_id)


def _num_rows(batch: Mapping[str, Any]) -> int:
    for value in batch.values():
        if isinstance(value, Tensor) and value.ndim:
            return int(value.shape[0])
    raise KeyError("num_loss_terms")


def _mean_arguments(batch: Mapping[str, Any], outputs: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = torch.as_tensor(outputs[key]).detach()
    if value.ndim:
        return {"value": value, "weight": 1}
    terms = outputs.get("num_loss_terms")
    return {"value": value, "weight": _num_rows(batch) if terms is None else terms}


def output_mean(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, *, key: str, **_: Any
) -> dict[str, Any]:
    """The output `key`: a value per example, or a mean over `num_loss_terms` terms (else the rows of the batch)."""
    return _mean_arguments(batch, loss_dict, key)


def mean_loss_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **_: Any
) -> dict[str, Any]:
    """`loss`, weighted by the number of its terms (`num_loss_terms`, else the rows of the batch)."""
    return _mean_arguments(batch, loss_dict, "loss")


def length_loss_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **_: Any
) -> dict[str, Any]:
    """`length_loss`, a value per example or the mean over the rows of the batch."""
    return _mean_arguments(batch, {"length_loss": loss_dict["length_loss"]}, "length_loss")


def token_ce_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **_: Any
) -> dict[str, Any]:
    """`token_ce`, a value per example or the mean over `num_loss_terms` terms."""
    return _mean_arguments(batch, loss_dict, "token_ce")


def steps_taken_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **_: Any
) -> dict[str, Any]:
    """`steps_taken` of each row, or one number for all rows of the batch."""
    steps = torch.as_tensor(loss_dict["steps_taken"])
    return {"value": steps, "weight": 1 if steps.ndim else _num_rows(batch)}


def _answers(batch: Mapping[str, Any], outputs: Mapping[str, Any], start: Any, tokenizer: Any) -> dict[str, Any]:
    pred = rows_from(outputs["ids"], start, tokenizer.pad_token_id)
    target = batch["target_ids"].to(pred.device)
    ends = tokenizer.eos_token_id, tokenizer.pad_token_id
    return {
        "pred": pred,
        "target": target,
        "pred_length": content_length(pred, *ends),
        "target_length": content_length(target, *ends),
    }


def seq2seq_exact_match_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any, **_: Any
) -> dict[str, Any]:
    """The answers `ids[:, output_start_idx:]` against `target_ids`, both cut at their first EOS."""
    return _answers(batch, loss_dict, loss_dict["output_start_idx"], tokenizer)


def seq2seq_token_accuracy_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any, **_: Any
) -> dict[str, Any]:
    """The answers `ids[:, output_start_idx:]` against `target_ids`, both cut at their first EOS."""
    return _answers(batch, loss_dict, loss_dict["output_start_idx"], tokenizer)


def infill_token_accuracy_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any, **_: Any
) -> dict[str, Any]:
    """The tokens of `ids` at the masks of `input_ids`, against `target_ids`; given tokens don't count.

    For models that fill each mask with one token: row by row, `input_ids` and `ids` have the same columns.
    """
    start = loss_dict["output_start_idx"]
    pad = tokenizer.pad_token_id
    given = rows_from(batch["input_ids"], start, pad)
    target = batch["target_ids"].to(given.device)
    is_slot = _widened(given == tokenizer.mask_token_id, target.shape[1], False)
    return {"pred": rows_from(loss_dict["ids"], start, pad), "target": target, "target_mask": is_slot}


def exact_match_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any, **_: Any
) -> dict[str, Any]:
    """The rows `ids` (from `output_start_idx` on, if any) against `target_ids`, cut at their first EOS."""
    return _answers(batch, loss_dict, loss_dict.get("output_start_idx", 0), tokenizer)


def token_accuracy_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any, **_: Any
) -> dict[str, Any]:
    """The rows `ids` (from `output_start_idx` on, if any) against `target_ids`, cut at their first EOS."""
    return _answers(batch, loss_dict, loss_dict.get("output_start_idx", 0), tokenizer)

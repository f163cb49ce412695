"""Small helpers: list padding, masked reductions, and the sampling functions under their documented path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor

from xlm.sampling import (
    add_exp_1_noise,
    add_gumbel_noise,
    sample_categorical,
    sample_from_logits,
    sample_from_top_k,
    sample_from_top_p,
    select_random_indices,
)

__all__ = [
    "add_exp_1_noise",
    "add_gumbel_noise",
    "masked_mean",
    "masked_sum",
    "pad_truncate_list",
    "sample_categorical",
    "sample_from_logits",
    "sample_from_top_k",
    "sample_from_top_p",
    "select_random_indices",
]


@overload
def pad_truncate_list(
    ids: Sequence[Any],
    max_len: int,
    pad_token: Any,
    pad_left: bool = False,
    return_num_padded: Literal[False] = False,
) -> list[Any]: ...


@overload
def pad_truncate_list(
    ids: Sequence[Any],
    max_len: int,
    pad_token: Any,
    pad_left: bool = False,
    *,
    return_num_padded: Literal[True],
) -> tuple[list[Any], int]: ...


@overload
def pad_truncate_list(
    ids: Sequence[Any], max_len: int, pad_token: Any, pad_left: bool, return_num_padded: Literal[True]
) -> tuple[list[Any], int]: ...


def pad_truncate_list(
    ids: Sequence[Any],
    max_len: int,
    pad_token: Any,
    pad_left: bool = False,
    return_num_padded: bool = False,
) -> list[Any] | tuple[list[Any], int]:
    """A list of exactly max_len entries: right padding keeps the first of `ids`, left padding the last.

    `pad_token` may be a list, which is cycled from its start. With `return_num_padded` also
    max_len − len(ids), negative when entries were cut off.
    """
    num_padded = max_len - len(ids)
    pads = _padding(pad_token, max(0, num_padded))
    # Not ids[-max_len:] for the last ones, which would be everything for max_len = 0.
    padded = pads + list(ids[max(0, -num_padded) :]) if pad_left else list(ids[:max_len]) + pads
    return (padded, num_padded) if return_num_padded else padded


def _padding(pad_token: Any, count: int) -> list[Any]:
    if not isinstance(pad_token, (list, tuple)):
        return [pad_token] * count
    if not pad_token:
        raise ValueError("pad_token is an empty list")
    return [pad_token[i % len(pad_token)] for i in range(count)]


def masked_sum(vector: Tensor, mask: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Sum over `dim` of the entries where mask is True; other entries, even NaN, don't count."""
    return vector.masked_fill(~mask.bool(), 0).sum(dim=dim, keepdim=keepdim)


def masked_mean(vector: Tensor, mask: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Mean over `dim` of the entries where mask is True: sum / (count + 1e-9), so 0 if none is selected."""
    count = mask.bool().expand_as(vector).sum(dim=dim, keepdim=keepdim)
    return masked_sum(vector, mask, dim, keepdim) / (count + 1e-9)

"""The documented helpers, as published models call them."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xlm.utils.nn as nn_utils
from xlm.utils.nn import masked_mean, masked_sum, pad_truncate_list, sample_from_top_k, sample_from_top_p


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 10), st.booleans())
def test_padding_keeps_the_right_end(ids: list[int], max_len: int, pad_left: bool) -> None:
    padded, num_padded = pad_truncate_list(ids, max_len, -1, pad_left, return_num_padded=True)
    assert padded == pad_truncate_list(ids, max_len, -1, pad_left)
    assert len(padded) == max_len
    assert num_padded == max_len - len(ids)
    pads = [-1] * max(0, num_padded)
    kept = ids[len(ids) - max_len :] if pad_left and len(ids) > max_len else ids[:max_len]
    assert padded == (pads + kept if pad_left else kept + pads)


def test_a_list_of_pads_is_cycled() -> None:
    assert pad_truncate_list([5], 6, [1, 2]) == [5, 1, 2, 1, 2, 1]
    assert pad_truncate_list([5], 4, [1, 2], pad_left=True) == [1, 2, 1, 5]
    with pytest.raises(ValueError, match="pad_token is an empty list"):
        pad_truncate_list([5], 4, [])


def test_masked_reductions_ignore_what_is_masked() -> None:
    vector = torch.tensor([[1.0, 2.0, torch.nan], [torch.inf, 3.0, 4.0]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert masked_sum(vector, mask, 1).tolist() == [3.0, 7.0]
    assert masked_sum(vector, mask, 1, keepdim=True).shape == (2, 1)
    assert torch.allclose(masked_mean(vector, mask, dim=1), torch.tensor([1.5, 3.5]))
    assert masked_mean(vector, torch.zeros_like(mask), dim=1).tolist() == [0.0, 0.0]
    assert masked_mean(vector, mask.float(), dim=1, keepdim=True).shape == (2, 1)


def test_a_masked_mean_divides_by_the_count_of_a_broadcast_mask() -> None:
    vector = torch.ones(2, 3, 4)
    mask = torch.tensor([True, False, True]).reshape(1, 3, 1)
    assert torch.allclose(masked_mean(vector, mask, dim=(1, 2)), torch.ones(2))


def test_samplers_can_be_partially_applied() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0]])
    assert functools.partial(sample_from_top_k, 1)(logits).tolist() == [0]
    assert functools.partial(sample_from_top_p, 0.5)(logits, temperature=0.5).tolist() == [0]


def test_all_documented_names_live_here() -> None:
    documented = {
        "pad_truncate_list",
        "masked_mean",
        "masked_sum",
        "sample_from_logits",
        "sample_from_top_k",
        "sample_from_top_p",
        "sample_categorical",
        "select_random_indices",
        "add_gumbel_noise",
        "add_exp_1_noise",
    }
    assert set(nn_utils.__all__) == documented
    assert all(callable(getattr(nn_utils, name)) for name in documented)

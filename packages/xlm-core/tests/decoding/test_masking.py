"""Masking: right rates, a pure function of each row's seed, schedules that reach both ends."""

from __future__ import annotations

import pytest
import torch

from xlm.decoding.masking import IGNORE, StretchedSchedule, draw_times, mask_tokens
from xlm.noise import (
    CosineSchedule,
    GeometricSchedule,
    LinearSchedule,
    LogLinearSchedule,
    MaskingSchedule,
    PolynomialSchedule,
)

SCHEDULES: list[MaskingSchedule] = [
    LogLinearSchedule(),
    CosineSchedule(),
    PolynomialSchedule(),
    LinearSchedule(),
    GeometricSchedule(),
]
MASK = 99


def test_times_are_uniform_between_their_ends() -> None:
    t = draw_times(torch.arange(20_000), t_min=0.2)
    counts = torch.histc(t, bins=20, min=0.2, max=1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 19 + 4.5 * 38**0.5


def test_times_at_levels_stretch_them() -> None:
    levels = torch.tensor([0.0, 0.25, 0.5])
    assert draw_times(torch.arange(3), levels, t_min=0.2).tolist() == pytest.approx([0.2, 0.4, 0.6])


def test_masked_tokens_become_targets_and_others_stay() -> None:
    ids = torch.arange(12).view(2, 6)
    maskable = torch.tensor([[False, True, True, True, True, False]] * 2)
    masked = mask_tokens(ids, maskable, torch.tensor([1.0, 0.0]), torch.tensor([3, 4]), MASK)
    assert masked.ids.tolist() == [[0, 99, 99, 99, 99, 5], [6, 7, 8, 9, 10, 11]]
    assert masked.targets.tolist() == [[IGNORE, 1, 2, 3, 4, IGNORE], [IGNORE] * 6]
    assert masked.target_index.tolist() == [1, 2, 3, 4]


def test_each_token_is_masked_with_the_rows_rate() -> None:
    n = 5_000
    ids = torch.zeros(n, 10, dtype=torch.long)
    rate = torch.full((n,), 0.3, dtype=torch.float64)
    share = (mask_tokens(ids, ids == 0, rate, torch.arange(n), MASK).ids == MASK).double()
    assert torch.allclose(share.mean(0), torch.full((10,), 0.3, dtype=torch.float64), atol=4.5 * (0.21 / n) ** 0.5)
    # On their own: no two positions move together.
    correlation = torch.corrcoef(share.T) - torch.eye(10)
    assert float(correlation.abs().max()) < 5 / n**0.5


def test_a_rows_masks_ignore_its_batch_and_its_padding() -> None:
    ids, seeds = torch.arange(24).view(4, 6), torch.tensor([5, 6, 7, 8])
    rate = torch.full((4,), 0.5)
    together = mask_tokens(ids, torch.ones_like(ids, dtype=torch.bool), rate, seeds, MASK)
    padded = torch.cat([torch.full((1, 3), 77), ids[2:3]], dim=1)
    real = torch.tensor([[False] * 3 + [True] * 6])
    alone = mask_tokens(padded, real, rate[:1], seeds[2:3], MASK, real)
    assert torch.equal(alone.ids[:, 3:], together.ids[2:3])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_stretched_schedules_run_from_no_mask_to_masks_alone(schedule: MaskingSchedule) -> None:
    stretched = StretchedSchedule(schedule)
    ends = stretched.rate(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == [0.0, 1.0]
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    rate = stretched.rate(t)
    torch.testing.assert_close(stretched.time(rate), t)
    torch.testing.assert_close(stretched.sigma(rate), schedule.sigma(t))
    # −α′/(1 − α) is the logarithmic derivative of the rate.
    (slope,) = torch.autograd.grad(rate.log().sum(), t)
    torch.testing.assert_close(stretched.weight(t.detach()), slope)
    grid = stretched.grid(10, torch.device("cpu"))
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()


def test_where_alpha_starts_at_one_the_weight_is_the_schedules_own() -> None:
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    for schedule in SCHEDULES[:3]:
        torch.testing.assert_close(StretchedSchedule(schedule).weight(t), schedule.loss_weight(t))

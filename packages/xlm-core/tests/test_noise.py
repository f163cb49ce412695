"""Every form of a schedule agrees with every other, up to and including both ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xlm.noise import (
    CosineSchedule,
    DummyNoiseSchedule,
    GeometricSchedule,
    LinearSchedule,
    LogLinearSchedule,
    MaskingSchedule,
    NoiseSchedule,
    PolynomialSchedule,
    RescaledSchedule,
)

SCHEDULES = [
    LogLinearSchedule(),
    LogLinearSchedule(eps=1e-5),
    CosineSchedule(),
    PolynomialSchedule(power=1.0),
    PolynomialSchedule(power=3.5),
    LinearSchedule(),
    LinearSchedule(sigma_min=0.0, sigma_max=5.0),
    GeometricSchedule(),
]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def times(n: int = 101, **kwargs: bool) -> torch.Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64, **kwargs)  # type: ignore[arg-type]


@each_schedule
def test_rates_are_derivatives(schedule: MaskingSchedule) -> None:
    t = times(requires_grad=True)
    (d_sigma,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    (alpha_prime,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    assert torch.allclose(schedule.d_sigma(t), d_sigma)
    assert torch.allclose(schedule.alpha_prime(t), alpha_prime)
    assert (alpha_prime <= 0).all()


@each_schedule
def test_alpha_is_exp_of_minus_sigma(schedule: MaskingSchedule) -> None:
    t = times()
    assert torch.allclose(schedule.alpha(t), torch.exp(-schedule.sigma(t)), atol=1e-14)
    inner = t[1:]
    weight = -schedule.alpha_prime(inner) / (1 - schedule.alpha(inner))
    assert torch.allclose(schedule.loss_weight(inner), weight)


@each_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_finite_and_nearly_all_or_nothing(schedule: MaskingSchedule, dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    for form in (schedule.alpha, schedule.alpha_prime, schedule.sigma, schedule.d_sigma):
        assert form(ends).isfinite().all()
        assert form(ends).dtype == dtype
    alpha = schedule.alpha(ends)
    assert alpha[0] > 0.998
    assert 0 < alpha[1] < 0.01
    assert torch.allclose(schedule.alpha_inverse(alpha), ends, atol=1e-3)
    assert torch.allclose(schedule.sigma_inverse(schedule.sigma(ends)), ends, atol=1e-3)
    # Beyond the ends there is only the end.
    assert schedule.alpha_inverse(torch.tensor([1.0, 1e-30], dtype=dtype)).tolist() == pytest.approx([0.0, 1.0])
    assert schedule.sigma_inverse(torch.tensor([0.0, 1e30], dtype=dtype)).tolist() == pytest.approx([0.0, 1.0])


@each_schedule
def test_inverses_invert(schedule: MaskingSchedule) -> None:
    t = times()
    assert torch.allclose(schedule.alpha_inverse(schedule.alpha(t)), t, atol=1e-6)
    assert torch.allclose(schedule.sigma_inverse(schedule.sigma(t)), t, atol=1e-6)
    assert (schedule.alpha(t).diff() < 0).all()


@settings(deadline=None)
@given(
    st.sampled_from(SCHEDULES),
    st.lists(st.integers(0, 4), max_size=3),
    st.floats(0, 1, allow_subnormal=False),
)
def test_any_shape_goes(schedule: MaskingSchedule, shape: list[int], value: float) -> None:
    t = torch.full(shape, value)
    for form in (schedule.alpha, schedule.alpha_prime, schedule.sigma, schedule.d_sigma, schedule.loss_weight):
        assert form(t).shape == t.shape
    assert schedule.sigma_inverse(schedule.sigma(t)).shape == t.shape
    assert schedule.alpha_inverse(schedule.alpha(t)).shape == t.shape


def test_small_times_keep_their_digits_in_float32() -> None:
    t = torch.tensor([1e-6, 1e-4])
    for schedule in (LogLinearSchedule(), CosineSchedule()):
        exact = schedule.sigma(t.double())
        assert torch.allclose(schedule.sigma(t).double(), exact, rtol=1e-5, atol=0)
        assert torch.allclose(schedule.sigma_inverse(schedule.sigma(t)), t, rtol=1e-5, atol=0)


def test_known_values() -> None:
    half = torch.tensor(0.5, dtype=torch.float64)
    assert LogLinearSchedule(eps=0.1).alpha(half) == pytest.approx(0.55)
    assert CosineSchedule(eps=0.1).alpha(half) == pytest.approx(0.1 + 0.9 * math.cos(math.pi / 4))
    assert PolynomialSchedule(power=2, eps=0.1).alpha(half) == pytest.approx(1 - 0.9 / 4)
    assert LinearSchedule(1.0, 3.0).sigma(half) == pytest.approx(2.0)
    assert GeometricSchedule(1.0, 4.0).sigma(half) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogLinearSchedule(eps=0), r"eps must be in \(0, 1\).*got 0"),
        (lambda: CosineSchedule(eps=1), "eps must be in"),
        (lambda: PolynomialSchedule(power=0.5), "power must be at least 1"),
        (lambda: PolynomialSchedule(eps=-1), "eps must be in"),
        (lambda: LinearSchedule(2, 1), "sigma_min < sigma_max"),
        (lambda: GeometricSchedule(0, 1), "0 < sigma_min < sigma_max"),
    ],
)
def test_impossible_schedules_say_so(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_schedules_of_others_may_be_modules_with_an_init() -> None:
    class Own(nn.Module, NoiseSchedule):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(rate))

    assert float(Own(2.0).rate.detach()) == 2.0
    assert NoiseSchedule in type(DummyNoiseSchedule()).__mro__


@each_schedule
def test_rescaled_schedules_run_from_no_mask_to_masks_alone(schedule: MaskingSchedule) -> None:
    rescaled = RescaledSchedule(schedule)
    ends = rescaled.mask_prob(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == [0.0, 1.0]
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    mask_prob = rescaled.mask_prob(t)
    torch.testing.assert_close(rescaled.time(mask_prob), t)
    torch.testing.assert_close(rescaled.sigma(mask_prob), schedule.sigma(t))
    # −α′/(1 − α) is the logarithmic derivative of 1 − α.
    (slope,) = torch.autograd.grad(mask_prob.log().sum(), t)
    torch.testing.assert_close(rescaled.weight(t.detach()), slope)
    grid = rescaled.grid(10, torch.device("cpu"))
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()


def test_where_alpha_starts_at_one_the_weight_is_the_schedules_own() -> None:
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    for schedule in SCHEDULES[:5]:
        torch.testing.assert_close(RescaledSchedule(schedule).weight(t), schedule.loss_weight(t))

"""Noise schedules of masked diffusion: how the chance to be masked grows with time, in every form a loss may need."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from xlm.protocols import NoiseSchedule
from xlm.sampling import sampling_dtype

__all__ = [
    "CosineSchedule",
    "DummyNoiseSchedule",
    "GeometricSchedule",
    "LinearSchedule",
    "LogLinearSchedule",
    "MaskingSchedule",
    "NoiseSchedule",
    "PolynomialSchedule",
    "RescaledSchedule",
]

Times = Float[Tensor, "*shape"]


class DummyNoiseSchedule(NoiseSchedule):
    """For families without a notion of noise."""


class MaskingSchedule(NoiseSchedule):
    """A token is still itself at time t in [0, 1] with probability α(t) = exp(−σ(t)); all maps are elementwise.

    α falls from (nearly) 1 to (nearly) 0, σ and its derivative are finite at both ends. arXiv 2406.07524, section 3.
    """

    @abstractmethod
    def alpha(self, t: Times) -> Times:
        """α(t): the probability that a token is not masked."""

    @abstractmethod
    def alpha_prime(self, t: Times) -> Times:
        """dα/dt, never positive."""

    @abstractmethod
    def sigma(self, t: Times) -> Times:
        """σ(t) = −log α(t): the total noise."""

    @abstractmethod
    def d_sigma(self, t: Times) -> Times:
        """dσ/dt = −α′/α: the rate of noise."""

    @abstractmethod
    def alpha_inverse(self, alpha: Times) -> Times:
        """The t with α(t) = alpha; the nearer end where there is none."""

    @abstractmethod
    def sigma_inverse(self, sigma: Times) -> Times:
        """The t with σ(t) = sigma; the nearer end where there is none."""

    @abstractmethod
    def loss_weight(self, t: Times) -> Times:
        """−α′(t) / (1 − α(t)): what the NELBO weights the masked tokens' loss with; may be infinite at t = 0."""


class _AlphaSchedule(MaskingSchedule):
    """Where α is the simple one: σ follows."""

    def sigma(self, t: Times) -> Times:
        return -torch.log1p(-self._masked(t))

    def d_sigma(self, t: Times) -> Times:
        return -self.alpha_prime(t) / self.alpha(t)

    def sigma_inverse(self, sigma: Times) -> Times:
        return self._masked_inverse(-torch.expm1(-sigma))

    def alpha_inverse(self, alpha: Times) -> Times:
        return self._masked_inverse(1 - alpha)

    @abstractmethod
    def _masked(self, t: Times) -> Times:
        """1 − α(t), without the cancellation near t = 0."""

    @abstractmethod
    def _masked_inverse(self, masked: Times) -> Times: ...


@dataclass(frozen=True)
class PolynomialSchedule(_AlphaSchedule):
    """α = 1 − (1 − ε) t^power; power 1 is log-linear."""

    power: float = 2.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _check_eps(self.eps)
        if self.power < 1:
            raise ValueError(f"power must be at least 1, or α′ is infinite at t = 0; got {self.power}")

    def alpha(self, t: Times) -> Times:
        s = t**self.power
        return (1 - s) + self.eps * s

    def alpha_prime(self, t: Times) -> Times:
        return -(1 - self.eps) * self.power * t ** (self.power - 1)

    def loss_weight(self, t: Times) -> Times:
        return self.power / t

    def _masked(self, t: Times) -> Times:
        return (1 - self.eps) * t**self.power

    def _masked_inverse(self, masked: Times) -> Times:
        return (masked / (1 - self.eps)).clamp(0, 1) ** (1 / self.power)


@dataclass(frozen=True)
class LogLinearSchedule(_AlphaSchedule):
    """α = 1 − (1 − ε) t: as many tokens are masked per unit of time from start to end."""

    eps: float = 1e-3

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def alpha(self, t: Times) -> Times:
        return (1 - t) + self.eps * t

    def alpha_prime(self, t: Times) -> Times:
        return torch.full_like(t, -(1 - self.eps))

    def loss_weight(self, t: Times) -> Times:
        return 1 / t

    def _masked(self, t: Times) -> Times:
        return (1 - self.eps) * t

    def _masked_inverse(self, masked: Times) -> Times:
        return (masked / (1 - self.eps)).clamp(0, 1)


@dataclass(frozen=True)
class CosineSchedule(_AlphaSchedule):
    """α = ε + (1 − ε) cos(π t / 2): slow at first."""

    eps: float = 1e-3

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def alpha(self, t: Times) -> Times:
        return self.eps + (1 - self.eps) * torch.cos(t * (math.pi / 2))

    def alpha_prime(self, t: Times) -> Times:
        return -(1 - self.eps) * (math.pi / 2) * torch.sin(t * (math.pi / 2))

    def loss_weight(self, t: Times) -> Times:
        # sin(πt/2) / (1 − cos(πt/2)) by half angles.
        return (math.pi / 2) / torch.tan(t * (math.pi / 4))

    def _masked(self, t: Times) -> Times:
        return (1 - self.eps) * 2 * torch.sin(t * (math.pi / 4)) ** 2

    def _masked_inverse(self, masked: Times) -> Times:
        half = (masked / (1 - self.eps) / 2).clamp(0, 0.5).sqrt()
        return (torch.asin(half) * (4 / math.pi)).clamp(max=1)


class _SigmaSchedule(MaskingSchedule):
    """Where σ is the simple one: α follows."""

    def alpha(self, t: Times) -> Times:
        return torch.exp(-self.sigma(t))

    def alpha_prime(self, t: Times) -> Times:
        return -self.d_sigma(t) * self.alpha(t)

    def alpha_inverse(self, alpha: Times) -> Times:
        return self.sigma_inverse(-torch.log(alpha))

    def loss_weight(self, t: Times) -> Times:
        return self.d_sigma(t) / torch.expm1(self.sigma(t))


@dataclass(frozen=True)
class LinearSchedule(_SigmaSchedule):
    """σ = σ_min + (σ_max − σ_min) t: a constant rate of noise."""

    sigma_min: float = 1e-3
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < self.sigma_max:
            raise ValueError(f"0 <= sigma_min < sigma_max is needed, got {self.sigma_min} and {self.sigma_max}")

    def sigma(self, t: Times) -> Times:
        return self.sigma_min + (self.sigma_max - self.sigma_min) * t

    def d_sigma(self, t: Times) -> Times:
        return torch.full_like(t, self.sigma_max - self.sigma_min)

    def sigma_inverse(self, sigma: Times) -> Times:
        return ((sigma - self.sigma_min) / (self.sigma_max - self.sigma_min)).clamp(0, 1)


@dataclass(frozen=True)
class GeometricSchedule(_SigmaSchedule):
    """σ = σ_min^(1−t) · σ_max^t: log σ is linear."""

    sigma_min: float = 1e-3
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"0 < sigma_min < sigma_max is needed, got {self.sigma_min} and {self.sigma_max}")

    def sigma(self, t: Times) -> Times:
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def d_sigma(self, t: Times) -> Times:
        return math.log(self.sigma_max / self.sigma_min) * self.sigma(t)

    def sigma_inverse(self, sigma: Times) -> Times:
        span = math.log(self.sigma_max / self.sigma_min)
        return (torch.log(sigma / self.sigma_min) / span).clamp(0, 1)


class RescaledSchedule:
    """A schedule whose α is rescaled to run from exactly 1 at t = 0 to exactly 0 at t = 1.

    Sampling starts from masks alone, so a schedule that still keeps a token with probability α(1) = ε is the law of
    another start; rescaled, the NELBO misses nothing at either end and is a bound for any ε. With α(0) = 1, as in
    most schedules, the weight −α′/(1 − α) is the schedule's own. arXiv 2406.07524, section 3.
    """

    def __init__(self, schedule: MaskingSchedule) -> None:
        self.schedule = schedule
        ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.start, self.end = float(ends[0]), float(ends[1])

    def mask_prob(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 − α(t): the probability that a token is masked at time t."""
        return (self.start - self.schedule.alpha(t)) / (self.start - self.end)

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """−α′(t) / (1 − α(t)), the NELBO's weight of the masked tokens' loss; infinite at t = 0."""
        return -self.schedule.alpha_prime(t) / (self.start - self.schedule.alpha(t))

    def time(self, mask_prob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The t at which tokens are masked with probability `mask_prob`."""
        return self.schedule.alpha_inverse(self.start - mask_prob * (self.start - self.end))

    def sigma(self, mask_prob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """σ at the time of that probability: the condition of the network."""
        return self.schedule.sigma(self.time(mask_prob))

    def grid(self, num_steps: int, device: torch.device) -> Float[Tensor, " points"]:
        """The probability to be masked at num_steps + 1 equally spaced times from 1 down to 0; the ends are exact."""
        t = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        grid = self.mask_prob(t)
        grid[0], grid[-1] = 1.0, 0.0
        return grid.to(device, sampling_dtype(device))


def _check_eps(eps: float) -> None:
    if not 0 < eps < 1:
        raise ValueError(f"eps must be in (0, 1), or σ is infinite at t = 1; got {eps}")

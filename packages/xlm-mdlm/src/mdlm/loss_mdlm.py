"""The NELBO of masked diffusion in continuous time, per token (arXiv 2406.07524, eq. 10)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mdlm.types_mdlm import MDLMBatch
from xlm.harness import Harness
from xlm.masked.loss import MaskedLoss
from xlm.noise import RescaledSchedule


class MDLMLoss(MaskedLoss):
    """E_t[ −α′_t/(1 − α_t) · Σ_{i masked} −log p(x_i | z_t, t) ], divided by the number of real tokens.

    An upper bound on −log p(x), whatever the schedule, if the collator lets lengths be learnt or modelled
    (`text_length`).
    """

    nll_of = "the diffusion run backwards in continuous time, at temperature 1 and unfiltered"

    def __init__(self, model: Any = None, tokenizer: Any = None, noise_schedule: Any = None) -> None:
        super().__init__(model, tokenizer)
        self.noise_schedule = noise_schedule

    def configure(self, pl_module: Harness) -> None:
        """Take the run's schedule, unless there is one already."""
        if self.noise_schedule is None:
            self.noise_schedule = pl_module.noise_schedule

    def weights(self, batch: MDLMBatch) -> Tensor:
        """−α′_t / (1 − α_t) of each row."""
        return batch["weight"]

    def batch_condition(self, batch: MDLMBatch) -> dict[str, Tensor]:
        """σ(t) of each row."""
        return {"sigma": batch["sigma"]}

    def condition(self, mask_prob: Tensor) -> dict[str, Tensor]:
        """σ at the time at which tokens are masked with that probability."""
        return {"sigma": RescaledSchedule(self.noise_schedule).sigma(mask_prob)}

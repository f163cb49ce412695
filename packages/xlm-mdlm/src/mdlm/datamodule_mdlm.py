"""Collators of masked diffusion: language modelling, prompt with answer, and blocks or slots of masks to fill."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mdlm.types_mdlm import MDLMBatch
from xlm.errors import ConfigError
from xlm.masked.collate import (
    CleanRows,
    MaskedCollator,
    MaskedSeq2SeqCollator,
    MasksAfterPrompt,
    MasksInPlace,
    masked_batch,
)
from xlm.noise import MaskingSchedule, RescaledSchedule
from xlm.utils.rich_utils import print_batch

__all__ = ["MDLMCollator", "MDLMSeq2SeqCollator", "MasksAfterPrompt", "MasksInPlace", "print_batch_mdlm"]


class Diffuses:
    """Masks by a noise schedule: z_t of every row, and the schedule at t."""

    tokenizer: Any
    noise_schedule: Any

    def corrupt(self, rows: CleanRows, t: Tensor, seeds: Tensor) -> MDLMBatch:
        """Each token masked with probability 1 − α(t). ConfigError for a schedule without α(t)."""
        if not isinstance(self.noise_schedule, MaskingSchedule):
            raise ConfigError(
                "Masked diffusion needs a noise schedule with α(t); noise_schedule is "
                f"{type(self.noise_schedule).__name__}.\n"
                "Choose noise_schedule=log_linear (or cosine, geometric, linear, polynomial)."
            )
        schedule = RescaledSchedule(self.noise_schedule)
        return {
            **masked_batch(rows, t, schedule.mask_prob(t), seeds, self.tokenizer.mask_token_id),
            "sigma": self.noise_schedule.sigma(t).float(),
            "weight": schedule.weight(t).float(),
        }


class MDLMCollator(Diffuses, MaskedCollator):
    """A text at a time t ~ U(t_min, 1) of `noise_schedule`; arguments as for `MaskedCollator`."""


class MDLMSeq2SeqCollator(Diffuses, MaskedSeq2SeqCollator):
    """The same for the answer of a prompt; arguments as for `MaskedSeq2SeqCollator`."""


print_batch_mdlm = print_batch

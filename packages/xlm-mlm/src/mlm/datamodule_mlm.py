"""Collators of the masked model: language modelling, prompt with answer, and blocks or slots of masks to fill."""

from __future__ import annotations

from xlm.masked.collate import MaskedCollator, MaskedSeq2SeqCollator, MasksAfterPrompt, MasksInPlace
from xlm.utils.rich_utils import print_batch

__all__ = ["MLMCollator", "MLMSeq2SeqCollator", "MasksAfterPrompt", "MasksInPlace", "print_batch_mlm"]


class MLMCollator(MaskedCollator):
    """A text in which each token is masked with probability t ~ U(t_min, 1); arguments as for `MaskedCollator`."""


class MLMSeq2SeqCollator(MaskedSeq2SeqCollator):
    """The same for the answer of a prompt; arguments as for `MaskedSeq2SeqCollator`."""


print_batch_mlm = print_batch

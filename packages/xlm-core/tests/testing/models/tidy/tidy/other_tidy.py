"""Components of other kinds; only WorstToken is wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tidy.loss_tidy import TidyLoss
from tidy.predictor_tidy import TidyPredictor


class Chatty(TidyPredictor):
    """Prints what it does."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        print("predicting")
        return super().predict(*args, **kwargs)


class Uncounted(TidyLoss):
    """Returns no number of terms; a subclass reduces the terms to the loss."""

    def together(self, nll: Tensor, real: Tensor) -> Tensor:
        """The loss from −log p (B, L) and the mask of real targets."""
        raise NotImplementedError

    def loss_fn(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        targets = batch["target_ids"]
        nll = nn.functional.cross_entropy(self.logits(batch).transpose(1, 2), targets, reduction="none")
        return {"loss": self.together(nll, targets != -100)}


class MeanOverTokens(Uncounted):
    """Longer rows weigh more."""

    def together(self, nll: Tensor, real: Tensor) -> Tensor:
        return nll.sum() / real.sum()


class MeanOverRows(Uncounted):
    """Each row weighs the same."""

    def together(self, nll: Tensor, real: Tensor) -> Tensor:
        return (nll.sum(dim=1) / real.sum(dim=1)).mean()


class DrawsNoise(MeanOverRows):
    """Draws from torch's global generator, as losses that sample a time do."""

    def together(self, nll: Tensor, real: Tensor) -> Tensor:
        return super().together(nll * (0.5 + torch.rand_like(nll)), real)


class WorstToken(Uncounted):
    """Not a mean over anything."""

    def together(self, nll: Tensor, real: Tensor) -> Tensor:
        return nll.max()


class CountsNoSteps(TidyPredictor):
    """Takes num_steps but does not return steps_taken."""

    def __init__(
        self, tokenizer: Any = None, noise_schedule: Any = None, model: Any = None, num_steps: int = 8
    ) -> None:
        super().__init__(tokenizer, noise_schedule, model, max_length=8)
        self.num_steps = num_steps

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        found = dict(super().predict(*args, **kwargs))
        del found["steps_taken"]
        return found

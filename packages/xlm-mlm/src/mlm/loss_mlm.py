"""The masked loss: mean over masked positions of −log p(x_i | what is visible), or the any-order bound."""

from __future__ import annotations

from typing import Any, Literal

from mlm.types_mlm import MLMBatch, MLMLossDict
from xlm.masked.loss import MaskedLoss, masked_targets
from xlm.masked.text_length import length_nll

Weighting = Literal["none", "elbo"]


class MLMLoss(MaskedLoss):
    """Cross-entropy of the tokens under the masks; the output layer runs on those positions only.

    Args:
        model, tokenizer: filled by the harness.
        weighting: "none" is the mean over the masked positions of the batch. "elbo" weights each row by 1/t and
            divides by the number of real tokens, which makes it an upper bound on their NLL: the mean over all orders
            of the left-to-right likelihood in that order (arXiv 2110.02037, eq. 4).
    """

    def __init__(self, model: Any = None, tokenizer: Any = None, weighting: Weighting = "none") -> None:
        if weighting not in ("none", "elbo"):
            raise ValueError(f"Unknown weighting {weighting!r}. Choices: none, elbo.")
        super().__init__(model, tokenizer)
        self.weighting = weighting

    def loss_fn(
        self,
        batch: MLMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MLMLossDict:
        """`loss` (scalar, nats per term) and `num_loss_terms` (masked positions, or real tokens for "elbo")."""
        if self.weighting == "elbo":
            return super().loss_fn(batch)
        index, targets = masked_targets(batch)
        length_nll(self.model, batch, learn=self.model.training)  # counts lengths; no part of this mean
        loss = self.masked_nll(batch, batch["input_ids"], index, targets, {}, "mean")
        return {"loss": loss, "num_loss_terms": targets.numel()}

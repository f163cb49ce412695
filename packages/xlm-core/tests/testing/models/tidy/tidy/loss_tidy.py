"""Cross-entropy of the next token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tidy.types_tidy import TidyBatch, TidyLossDict
from xlm.harness import Harness, LossFunction


class TidyLoss(LossFunction[TidyBatch, TidyLossDict]):
    """The mean over targets."""

    def __init__(self, model: Any = None, tokenizer: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def configure(self, pl_module: Harness) -> None:
        """Nothing to prepare."""

    def logits(self, batch: TidyBatch) -> Tensor:
        """(B, L, V)."""
        logits: Tensor = self.model(batch["input_ids"], batch["attention_mask"])
        return logits

    def loss_fn(
        self,
        batch: TidyBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> TidyLossDict:
        targets = batch["target_ids"]
        loss = nn.functional.cross_entropy(self.logits(batch).transpose(1, 2), targets)
        return {"loss": loss, "num_loss_terms": (targets != -100).sum()}

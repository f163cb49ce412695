"""The loss of the model of gaps, and what its metric is fed."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from xlm.harness import LossFunction


class GapLoss(LossFunction[dict, dict]):
    """Mean cross-entropy of the masked tokens."""

    def __init__(self, model=None, tokenizer=None):
        self.model = model
        self.tokenizer = tokenizer

    def loss_fn(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None) -> dict[str, Any]:
        logits = self.model(batch["input_ids"], batch["attention_mask"]).transpose(1, 2)
        targets = batch["target_ids"]
        ce = F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")
        hidden = targets != -100
        return {"loss": ce.sum() / hidden.sum(), "batch_loss": (ce.sum(dim=1) / hidden.sum(dim=1)).detach()}


def mean_metric_update_fn(batch, loss_dict, tokenizer=None):
    return {"value": loss_dict["batch_loss"]}

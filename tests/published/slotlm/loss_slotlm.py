"""The loss of the slot model."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from slotlm.types_slotlm import SlotBatch, SlotLossDict
from xlm.harness import Harness, LossFunction
from xlm.utils.nn import masked_mean, masked_sum
from xlm.utils.rank_zero import RankedLogger

logger = RankedLogger(__name__, rank_zero_only=True)


class SlotLoss(LossFunction[SlotBatch, SlotLossDict]):
    """Cross-entropy of the next tokens plus binary cross-entropy of "does anything come here"."""

    def __init__(self, length_loss_weight: float | None = None, model=None, tokenizer=None):
        self.length_loss_weight = length_loss_weight
        self.model = model
        self.tokenizer = tokenizer
        self.length_loss_weight_ = None

    def configure(self, pl_module: Harness):
        weight = 1.0 if self.length_loss_weight is None else self.length_loss_weight
        self.length_loss_weight_ = torch.tensor(weight, device=pl_module.device)
        logger.info(f"slots are weighted by {weight}")

    def loss_fn(
        self,
        batch: SlotBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> SlotLossDict:
        mask = batch["attention_mask"]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits, open_logits = self.model(batch["input_ids"], mask, positions, batch["token_type_ids"])
        targets = batch["slot_ids"]
        ce = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none")
        bce = F.binary_cross_entropy_with_logits(open_logits, batch["slot_open"], reduction="none")
        missing = targets != -100
        token_ce = masked_sum(ce, missing, dim=1).sum() / missing.sum().clamp(min=1)
        length_loss = masked_mean(bce, batch["slot_mask"], dim=1)
        batch_loss = masked_mean(ce, missing, dim=1) + self.length_loss_weight_ * length_loss
        return {
            "loss": batch_loss.mean(),
            "token_ce": token_ce.detach(),
            "length_loss": length_loss.mean().detach(),
            "batch_loss": batch_loss.detach(),
        }


class SlotLossForProfiling(SlotLoss):
    """Nothing but another name for experiments."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

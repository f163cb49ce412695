"""The loss: cross-entropy of the masked tokens, averaged in each row."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from flexlm.types import FlexBatch, FlexLossDict
from xlm.harness import LossFunction
from xlm.utils.nn import masked_mean


class FlexLoss(LossFunction[FlexBatch, FlexLossDict]):
    """Nothing to configure."""

    def __init__(self, weighted: bool = False, model: Any = None, tokenizer: Any = None):
        self.weighted = weighted
        self.model = model
        self.tokenizer = tokenizer

    def loss_fn(
        self, batch: FlexBatch, batch_idx=None, dataloader_idx=None, dataloader_name: str | None = None
    ) -> FlexLossDict:
        targets, t = batch["target_ids"], batch["t"]
        logits = self.model(batch["input_ids"], t, batch["attention_mask"])
        ce = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none")
        nlls = masked_mean(ce, targets != -100, dim=-1)
        if self.weighted:
            nlls = nlls / t
        return {"loss": nlls.mean(), "nlls": nlls}

"""The left-to-right loss: mean over target positions of −log p(x_i | x_<i)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from arlm.types_arlm import ARLMBatch, ARLMLossDict
from xlm.harness import Harness, LossFunction
from xlm.modules.chosen import Chosen, features_at
from xlm.modules.linear_cross_entropy import linear_cross_entropy
from xlm.modules.packing import packed


class ARLMLoss(LossFunction[ARLMBatch, ARLMLossDict]):
    """Cross-entropy of the next token, over the positions whose target is not -100.

    The output layer runs on those positions only. Which they are is the collator's choice: everything after BOS
    in language modelling, the answer and its EOS with a prompt.
    """

    packs: ClassVar[bool] = True
    nll_name = "nll"
    nll_of = "the sampler that writes from left to right, at temperature 1 and unfiltered"

    def __init__(self, model: Any = None, tokenizer: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def configure(self, pl_module: Harness) -> None:
        """Nothing to prepare."""

    def loss_fn(
        self,
        batch: ARLMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ARLMLossDict:
        """`loss` (scalar, nats per target) and `num_loss_terms` (how many targets it is the mean of)."""
        targets, hidden = self._targets_and_hidden(batch)
        head = self.model.final_layer
        loss = linear_cross_entropy(head.norm_final(hidden), head.linear.weight, head.linear.bias, targets)
        return {"loss": loss, "num_loss_terms": targets.numel()}

    def token_nll(self, batch: ARLMBatch) -> Float[Tensor, " targets"]:
        """−log p of every target, in reading order: the exact likelihood, for evaluation."""
        targets, hidden = self._targets_and_hidden(batch)
        head = self.model.final_layer
        return linear_cross_entropy(
            head.norm_final(hidden), head.linear.weight, head.linear.bias, targets, reduction="none"
        )

    @torch.no_grad()
    def greedy_ids(self, batch: ARLMBatch) -> Integer[Tensor, " targets"]:
        """The most likely token at every target, in reading order, given the true ones before it."""
        _, hidden = self._targets_and_hidden(batch)
        best: Tensor = self.model.final_layer(hidden).argmax(dim=-1)
        return best

    def _targets_and_hidden(self, batch: ARLMBatch) -> tuple[Tensor, Tensor]:
        """Targets (N,) and the hidden vectors (N, d) that predict them."""
        target_ids = batch["target_ids"].reshape(-1)
        index = batch.get("target_index")
        if index is None:
            index = torch.nonzero(target_ids != -100).squeeze(-1)
        hidden = features_at(
            self.model.hidden,
            self.model,
            batch["input_ids"],
            batch["attention_mask"],
            Chosen.of(index, batch["input_ids"].shape[1]),
            left_padded=batch.get("left_padded"),
            **packed(batch),
        )
        return target_ids[index], hidden

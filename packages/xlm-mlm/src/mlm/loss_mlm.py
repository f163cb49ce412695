"""The masked loss: mean over masked positions of −log p(x_i | what is visible), or the any-order bound."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from mlm.types_mlm import MLMBatch, MLMLossDict
from xlm.decoding.bound import Method, batch_bound, clean_ids, coded_ids
from xlm.decoding.masking import IGNORE
from xlm.decoding.text_length import length_nll, likelihood_of
from xlm.harness import Harness, LossFunction
from xlm.modules.linear_cross_entropy import linear_cross_entropy

Weighting = Literal["none", "elbo"]


class MLMLoss(LossFunction[MLMBatch, MLMLossDict]):
    """Cross-entropy of the tokens under the masks; the output layer runs on those positions only.

    Args:
        model, tokenizer: filled by the harness.
        weighting: "none" is the mean over the masked positions of the batch. "elbo" weights each row by 1/t and
            divides by the number of real tokens, which makes it an upper bound on their NLL: the mean over all orders
            of the left-to-right likelihood in that order (arXiv 2110.02037, eq. 4).
    """

    nll_name = "nll"
    nll_of = "the sampler that fills one mask at a time in random order, at temperature 1 and unfiltered"

    def __init__(self, model: Any = None, tokenizer: Any = None, weighting: Weighting = "none") -> None:
        if weighting not in ("none", "elbo"):
            raise ValueError(f"Unknown weighting {weighting!r}. Choices: none, elbo.")
        self.model = model
        self.tokenizer = tokenizer
        self.weighting = weighting

    def configure(self, pl_module: Harness) -> None:
        """Nothing to prepare."""

    def loss_fn(
        self,
        batch: MLMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MLMLossDict:
        """`loss` (scalar, nats per term) and `num_loss_terms` (masked positions, or real tokens for "elbo")."""
        index = batch.get("target_index")
        if index is None:
            index = (batch["target_ids"].reshape(-1) != IGNORE).nonzero().squeeze(-1)
        targets = batch["target_ids"].reshape(-1)[index]
        of_length = length_nll(self.model, batch, learn=self.model.training)
        if self.weighting == "none":
            loss = self._cross_entropy(batch["input_ids"], batch["attention_mask"], index, targets, "mean")
            return {"loss": loss, "num_loss_terms": targets.numel()}
        nll = self._cross_entropy(batch["input_ids"], batch["attention_mask"], index, targets, "none")
        weight = (1 / batch["t"])[index // batch["input_ids"].shape[1]]
        total = (weight * nll).sum()
        if of_length is not None:
            total = total + of_length.sum().to(total.dtype)
        num_tokens = batch["num_tokens"].sum()
        return {"loss": total / num_tokens.clamp(min=1), "num_loss_terms": num_tokens}

    def _cross_entropy(
        self, ids: Tensor, mask: Tensor, index: Tensor, targets: Tensor, reduction: Literal["mean", "none"]
    ) -> Tensor:
        """−log p of targets at flat positions; the mask token has probability 0, as when sampling."""
        features = self.model.features(ids, mask)
        head = self.model.output_layer
        rows = features.reshape(-1, features.shape[-1])[index]
        exclude = (self.tokenizer.mask_token_id,)
        return linear_cross_entropy(rows, head.weight, head.bias, targets, reduction=reduction, exclude_ids=exclude)

    @torch.no_grad()
    def nll_bound(
        self, batch: MLMBatch, num_samples: int = 1, num_points: int = 4, method: Method = "counts"
    ) -> Float[Tensor, "batch samples"]:
        """Independent draws of each row's any-order bound on −log p, nats, float64; see `xlm.evaluation.likelihood`."""

        def masked_nll(ids: Tensor, rate: Tensor, index: Tensor, targets: Tensor) -> Tensor:
            return self._cross_entropy(ids, batch["attention_mask"], index, targets, "none")

        return batch_bound(masked_nll, batch, self.model, self.tokenizer, num_samples, num_points, method)

    @torch.no_grad()
    def greedy_ids(self, batch: MLMBatch) -> Integer[Tensor, " maskable"]:
        """The most likely token at every maskable position, in reading order, while all of them are masked."""
        maskable = batch["maskable"]
        z = clean_ids(batch, self.tokenizer.pad_token_id).masked_fill(maskable, self.tokenizer.mask_token_id)
        features = self.model.features(z, batch["attention_mask"])
        logits: Tensor = self.model.output_layer(features[maskable])
        logits[:, self.tokenizer.mask_token_id] = -torch.inf
        return logits.argmax(dim=-1)

    def coded_ids(self, batch: MLMBatch) -> Integer[Tensor, "batch length"]:
        """The tokens that `nll_bound` is about, -100 elsewhere."""
        return coded_ids(batch, self.tokenizer.pad_token_id)

    def likelihood_of(self, batch: MLMBatch) -> tuple[str, str]:
        """What the likelihood of a batch is called, and whose it is; see `xlm.decoding.text_length`."""
        return likelihood_of(batch, self.nll_of)

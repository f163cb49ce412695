"""The NELBO of masked diffusion in continuous time, per token (arXiv 2406.07524, eq. 10)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from mdlm.types_mdlm import MDLMBatch, MDLMLossDict
from xlm.decoding.bound import Method, batch_bound, clean_ids, coded_ids
from xlm.decoding.masking import IGNORE, StretchedSchedule
from xlm.decoding.text_length import length_nll, likelihood_of
from xlm.harness import Harness, LossFunction
from xlm.modules.linear_cross_entropy import linear_cross_entropy
from xlm.sampling import sampling_dtype


class MDLMLoss(LossFunction[MDLMBatch, MDLMLossDict]):
    """E_t[ −α′_t/(1 − α_t) · Σ_{i masked} −log p(x_i | z_t, t) ], divided by the number of real tokens.

    SUBS: the mask token has probability 0, and a token that z_t shows costs nothing. So the output layer runs on the
    masked positions only. An upper bound on −log p(x), whatever the schedule, if the collator lets lengths be learnt or
    modelled (`text_length`).
    """

    nll_name = "nll"
    nll_of = "the diffusion run backwards in continuous time, at temperature 1 and unfiltered"

    def __init__(self, model: Any = None, tokenizer: Any = None, noise_schedule: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule

    def configure(self, pl_module: Harness) -> None:
        """Take the run's schedule, unless there is one already."""
        if self.noise_schedule is None:
            self.noise_schedule = pl_module.noise_schedule

    def loss_fn(
        self,
        batch: MDLMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MDLMLossDict:
        """`loss` (scalar, nats per real token) and `num_loss_terms` (how many real tokens)."""
        z = batch["input_ids"]
        index = batch.get("target_index")
        if index is None:
            index = (batch["target_ids"].reshape(-1) != IGNORE).nonzero().squeeze(-1)
        x = batch["target_ids"].reshape(-1)[index]
        nll = self._masked_nll(z, batch["attention_mask"], batch["sigma"], index, x)
        total = (batch["weight"][index // z.shape[1]] * nll).sum()
        of_length = length_nll(self.model, batch, learn=self.model.training)
        if of_length is not None:
            total = total + of_length.sum().to(total.dtype)
        num_tokens = batch["num_tokens"].sum()
        return {"loss": total / num_tokens.clamp(min=1), "num_loss_terms": num_tokens}

    def _masked_nll(self, z: Tensor, mask: Tensor, sigma: Tensor, index: Tensor, x: Tensor) -> Tensor:
        """−log p(x_i | z_t, t) at flat positions, (N,)."""
        features = self.model.features(z, mask, sigma)
        rows = features.reshape(-1, features.shape[-1])[index]
        head = self.model.output_layer
        exclude = (self.tokenizer.mask_token_id,)
        return linear_cross_entropy(rows, head.weight, head.bias, x, reduction="none", exclude_ids=exclude)

    @torch.no_grad()
    def nll_bound(
        self, batch: MDLMBatch, num_samples: int = 1, num_points: int = 4, method: Method = "counts"
    ) -> Float[Tensor, "batch samples"]:
        """Independent draws of each row's bound on −log p, nats, float64; see `xlm.evaluation.likelihood`."""
        schedule = StretchedSchedule(self.noise_schedule)

        def masked_nll(z: Tensor, rate: Tensor, index: Tensor, x: Tensor) -> Tensor:
            return self._masked_nll(z, batch["attention_mask"], schedule.sigma(rate), index, x)

        return batch_bound(masked_nll, batch, self.model, self.tokenizer, num_samples, num_points, method)

    @torch.no_grad()
    def greedy_ids(self, batch: MDLMBatch) -> Integer[Tensor, " maskable"]:
        """The most likely token at every maskable position, in reading order, while all of them are masked."""
        maskable = batch["maskable"]
        z = clean_ids(batch, self.tokenizer.pad_token_id).masked_fill(maskable, self.tokenizer.mask_token_id)
        rate = torch.ones(len(z), dtype=sampling_dtype(z.device), device=z.device)
        sigma = StretchedSchedule(self.noise_schedule).sigma(rate)
        features = self.model.features(z, batch["attention_mask"], sigma)
        logits: Tensor = self.model.output_layer(features[maskable])
        logits[:, self.tokenizer.mask_token_id] = -torch.inf
        return logits.argmax(dim=-1)

    def coded_ids(self, batch: MDLMBatch) -> Integer[Tensor, "batch length"]:
        """The tokens that `nll_bound` is about, -100 elsewhere."""
        return coded_ids(batch, self.tokenizer.pad_token_id)

    def likelihood_of(self, batch: MDLMBatch) -> tuple[str, str]:
        """What the likelihood of a batch is called, and whose it is; see `xlm.decoding.text_length`."""
        return likelihood_of(batch, self.nll_of)

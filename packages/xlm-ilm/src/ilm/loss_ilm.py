"""The insertion loss: mean_b( CE_b + w · CE₂ ) or the bound per token, from lists of what is missing."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from ilm.corruption_ilm import corrupt
from ilm.datamodule_ilm import rows_of, training_batch
from ilm.slot_logits_ilm import CHUNK_ELEMENTS, insertion_cross_entropy
from ilm.types_ilm import PROMPT_TYPE, ILMBatch, ILMLossDict
from xlm.data.collate import IGNORE
from xlm.decoding.counter_rng import Stream, derive, uniform
from xlm.errors import ConfigError
from xlm.harness import Harness, LossFunction
from xlm.modules.packing import packed
from xlm.sampling import sampling_dtype

LENGTH_LOSSES = ("binary_ce", "ce")
WEIGHTINGS = ("none", "elbo")


class ILMLoss(LossFunction[ILMBatch, ILMLossDict]):
    """Cross-entropy of the next insertion, and of what CLS says about how much is missing (arXiv 2505.05755).

    `nll_bound` is a bound on −log p(x); the loss is part of one with `weighting="elbo"` only. A sequence of N tokens is
    written in N + 1 steps, and the loss sees one of them. So with rows of equal weight, as published, short sequences
    count too much, and CLS learns to end texts too early.

    Args:
        model, tokenizer: filled by the harness.
        weighting: "none" for the mean over rows. "elbo" weights a row by its N + 1 steps and divides by their sum: the
            bound per token, but for log N!, which nothing can change.
        stopping_class_weight: w, the weight of the head on CLS.
        length_loss: "binary_ce" for complete or not, "ce" for the number of missing tokens; the model's head must
            have 2 classes for the first.
        chunk_elements: at most this many logits exist at a time.
    """

    packs: ClassVar[bool] = True
    nll_name = "sampler_nll_bound"
    nll_of = "the sampler that inserts one token at a time at temperature 1, unfiltered, and stops as often as CLS says"

    def __init__(
        self,
        model: Any = None,
        tokenizer: Any = None,
        stopping_class_weight: float = 1.0,
        length_loss: Literal["binary_ce", "ce"] = "binary_ce",
        chunk_elements: int = CHUNK_ELEMENTS,
        weighting: Literal["none", "elbo"] = "none",
    ) -> None:
        if weighting not in WEIGHTINGS:
            raise ConfigError(f"Unknown loss.weighting '{weighting}'. Choices: {', '.join(WEIGHTINGS)}.")
        if length_loss not in LENGTH_LOSSES:
            raise ConfigError(f"Unknown loss.length_loss '{length_loss}'. Choices: {', '.join(LENGTH_LOSSES)}.")
        self.model = model
        self.tokenizer = tokenizer
        self.stopping_class_weight = stopping_class_weight
        self.length_loss = length_loss
        self.chunk_elements = chunk_elements
        self.weighting = weighting

    def configure(self, pl_module: Harness) -> None:
        """Check that the head on CLS has the classes that `length_loss` needs."""
        classes = self.model.length_head.linear.out_features
        if (classes == 2) != (self.length_loss == "binary_ce"):
            raise ConfigError(
                f"loss.length_loss={self.length_loss} does not fit the model's head of {classes} classes.\n"
                "model.num_classes must be 2 for binary_ce, and the most missing tokens + 1 for ce."
            )

    def loss_fn(
        self,
        batch: ILMBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ILMLossDict:
        """`loss` (nats per row, or per step with "elbo"), its two parts per row, and a bound on −log p of every row."""
        slot_index = batch.get("slot_index")
        if slot_index is None:
            slot_index = (batch["attention_mask"] & ~batch["constraint"]).view(-1).nonzero().squeeze(-1)
        given = dict(packed(batch))
        if getattr(self.model, "chooses", False):
            given["chosen"] = self.model.read_at(slot_index, batch["cls_position"], batch["input_ids"].shape[1])
        hidden = self.model.hidden(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], **given)
        head = self.model.final_layer
        token_ce = insertion_cross_entropy(
            head.norm_final(hidden),
            head.linear.weight,
            slot_index,
            batch["target_slots"],
            batch["target_tokens"],
            batch["target_counts"],
            self.chunk_elements,
        )
        n = batch["n_drops"]
        length_logits = self.model.length_logits(hidden, batch["cls_position"])
        length_logits = length_logits.to(torch.promote_types(length_logits.dtype, torch.float32))
        length_loss = F.cross_entropy(length_logits, n.clamp(max=length_logits.shape[-1] - 1), reduction="none")
        per_row = token_ce + self.stopping_class_weight * length_loss
        steps = batch["num_tokens"]
        by_steps = self.weighting == "elbo"
        return {
            "loss": (steps * per_row).sum() / steps.sum() if by_steps else per_row.mean(),
            "num_loss_terms": steps.sum() if by_steps else len(n),
            "token_ce": token_ce.detach(),
            "length_loss": length_loss.detach(),
            "nll_bound": bound_from(token_ce.detach(), length_logits.detach(), n, batch["num_tokens"]),
        }

    @torch.no_grad()
    def nll_bound(
        self, batch: ILMBatch, num_samples: int = 1, num_points: int = 4
    ) -> Float[Tensor, "batch num_samples"]:
        """Independent draws of each row's bound on −log p, nats, float64, for `xlm.evaluation.likelihood`.

        What it bounds: see `bound_from`. Each draw is the mean over `num_points` corruptions of the whole sequence,
        with the numbers of deleted tokens spread evenly.
        """
        prompts, sequences = _texts(batch)
        device = batch["input_ids"].device
        draws = torch.zeros(len(sequences), num_samples, dtype=sampling_dtype(device), device=device)
        for sample in range(num_samples):
            # Apart from the seeds of the batch's own corruption.
            seeds = derive(batch["noise_seed"].cpu(), sample + 1)
            start = uniform(seeds, Stream.TIME)
            for point in range(num_points):
                corrupted = corrupt(sequences, derive(seeds, point), (start + point / num_points) % 1.0)
                rows = rows_of(prompts, corrupted.kept, self.tokenizer)
                pad = self.tokenizer.pad_token_id
                drawn: Any = training_batch(rows, corrupted, seeds, pad_token_id=pad)
                drawn = {name: value.to(device) for name, value in drawn.items()}
                draws[:, sample] += self.loss_fn(drawn)["nll_bound"] / num_points
        return draws

    def coded_ids(self, batch: ILMBatch) -> Integer[Tensor, "batch length"]:
        """The whole sequences that `nll_bound` is about, -100 behind them."""
        ids = batch["clean_ids"]
        is_token = torch.arange(ids.shape[1], device=ids.device) < batch["num_tokens"][:, None] - 1
        return torch.where(is_token, ids, IGNORE)


def _texts(batch: ILMBatch) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and whole sequences of a batch, as lists."""
    is_prompt = (batch["token_type_ids"] == PROMPT_TYPE) & batch["attention_mask"]
    prompts = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], is_prompt, strict=True)]
    lengths = (batch["num_tokens"] - 1).tolist()
    return prompts, [row[:n] for row, n in zip(batch["clean_ids"].tolist(), lengths, strict=True)]


def bound_from(
    token_ce: Float[Tensor, " batch"],
    length_logits: Float[Tensor, "batch classes"],
    n_drops: Integer[Tensor, " batch"],
    num_tokens: Integer[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """One draw of (N + 1) · (CE_b + CE₂) − log N!, for sequences of N = num_tokens − 1 tokens.

    Its mean over corruptions bounds −log p(x) from above, p being the law of the sampler that draws each insertion
    at temperature 1 without filters, and each stop with the probability that CLS gives. A run of that sampler that
    ends in x is an order σ of x's tokens, each order is one run, so p(x) = Σ_σ p(σ). With σ uniform, Jensen gives
    −log p(x) ≤ −log N! + E_σ Σ_t −log p(step t). What is left of x before step t is x with N − t uniformly chosen
    tokens deleted, and the next token is a uniformly chosen one of those: the corruption and target of the loss.
    """
    complete = length_logits[:, 0] - length_logits.logsumexp(dim=-1)
    missing = length_logits[:, 1:].logsumexp(dim=-1) - length_logits.logsumexp(dim=-1)
    stop_ce = -torch.where(n_drops == 0, complete, missing)
    return num_tokens * (token_ce + stop_ce) - torch.lgamma(num_tokens.to(token_ce.dtype))

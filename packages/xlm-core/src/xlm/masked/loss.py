"""The loss that masked families share: the weighted cross-entropy under the masks, per real token, and its bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from xlm.data.collate import IGNORE
from xlm.masked.collate import MaskedLossDict
from xlm.masked.elbo import Method, batch_bound, clean_ids, coded_ids
from xlm.masked.text_length import length_nll, likelihood_of
from xlm.modules.chosen import Chosen, features_at
from xlm.modules.linear_cross_entropy import linear_cross_entropy
from xlm.modules.packing import packed
from xlm.protocols import LossFunction
from xlm.sampling import sampling_dtype

if TYPE_CHECKING:
    from xlm.harness import Harness


class MaskedLoss(LossFunction[Any, MaskedLossDict]):
    """Σ_b w_b Σ_{i masked} −log p(x_i | z_b), divided by the number of real tokens of the batch.

    A family says w_b (`weights`), and what its network is told besides the rows (`batch_condition` and `condition`).
    SUBS: the mask token has probability 0, and a token that z shows costs nothing. So the output layer runs on the
    masked positions only.
    """

    packs: ClassVar[bool] = True
    nll_name = "nll"
    nll_of = "the sampler that fills one mask at a time in random order, at temperature 1 and unfiltered"

    def __init__(self, model: Any = None, tokenizer: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def configure(self, pl_module: Harness) -> None:
        """Nothing to prepare."""

    def weights(self, batch: Any) -> Float[Tensor, " batch"]:
        """w of each row. 1/t makes the loss the NELBO where tokens are masked with probability t."""
        return 1 / batch["t"]

    def batch_condition(self, batch: Any) -> dict[str, Tensor]:
        """What the network is told of a training batch besides ids and mask, by name."""
        return {}

    def condition(self, mask_prob: Float[Tensor, " batch"]) -> dict[str, Tensor]:
        """The same where tokens are masked with a probability."""
        return {}

    def loss_fn(
        self,
        batch: Any,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MaskedLossDict:
        """`loss` (scalar, nats per real token) and `num_loss_terms` (how many real tokens)."""
        index, targets = masked_targets(batch)
        nll = self.masked_nll(batch, batch["input_ids"], index, targets, self.batch_condition(batch))
        total = (self.weights(batch)[index // batch["input_ids"].shape[1]] * nll).sum()
        of_length = length_nll(self.model, batch, learn=self.model.training)
        if of_length is not None:
            total = total + of_length.sum().to(total.dtype)
        num_tokens = batch["num_tokens"].sum()
        return {"loss": total / num_tokens.clamp(min=1), "num_loss_terms": num_tokens}

    def masked_nll(
        self,
        batch: Any,
        ids: Integer[Tensor, "batch length"],
        index: Integer[Tensor, " masks"],
        targets: Integer[Tensor, " masks"],
        condition: Mapping[str, Tensor],
        reduction: Literal["mean", "none"] = "none",
    ) -> Tensor:
        """−log p of targets at flat positions of rows `ids`, whose attention mask is that of the batch."""
        given = {**condition, **packed(batch)}
        chosen = Chosen.of(index, ids.shape[1])
        rows = features_at(self.model.features, self.model, ids, batch["attention_mask"], chosen, **given)
        head = self.model.output_layer
        exclude = (self.tokenizer.mask_token_id,)
        return linear_cross_entropy(rows, head.weight, head.bias, targets, reduction=reduction, exclude_ids=exclude)

    @torch.no_grad()
    def nll_bound(
        self, batch: Any, num_samples: int = 1, num_points: int = 4, method: Method = "counts"
    ) -> Float[Tensor, "batch samples"]:
        """Independent draws of each row's bound on −log p, nats, float64; see `xlm.evaluation.likelihood`."""

        def masked_nll(ids: Tensor, mask_prob: Tensor, index: Tensor, targets: Tensor) -> Tensor:
            return self.masked_nll(batch, ids, index, targets, self.condition(mask_prob))

        return batch_bound(masked_nll, batch, self.model, self.tokenizer, num_samples, num_points, method)

    @torch.no_grad()
    def greedy_ids(self, batch: Any) -> Integer[Tensor, " maskable"]:
        """The most likely token at every maskable position, in reading order, while all of them are masked."""
        maskable = batch["maskable"]
        z = clean_ids(batch, self.tokenizer.pad_token_id).masked_fill(maskable, self.tokenizer.mask_token_id)
        all_masked = torch.ones(len(z), dtype=sampling_dtype(z.device), device=z.device)
        given = {**self.condition(all_masked), **packed(batch)}
        chosen = Chosen.of(maskable.reshape(-1).nonzero().squeeze(-1), z.shape[1])
        features = features_at(self.model.features, self.model, z, batch["attention_mask"], chosen, **given)
        logits: Tensor = self.model.output_layer(features)
        logits[:, self.tokenizer.mask_token_id] = -torch.inf
        return logits.argmax(dim=-1)

    def coded_ids(self, batch: Any) -> Integer[Tensor, "batch length"]:
        """The tokens that `nll_bound` is about, -100 elsewhere."""
        return coded_ids(batch, self.tokenizer.pad_token_id)

    def likelihood_of(self, batch: Any) -> tuple[str, str]:
        """What the likelihood of a batch is called, and whose it is; see `xlm.masked.text_length`."""
        return likelihood_of(batch, self.nll_of)


def masked_targets(batch: Any) -> tuple[Integer[Tensor, " masks"], Integer[Tensor, " masks"]]:
    """Where targets are in the flattened (B·L) positions, and the targets."""
    target_ids, index = batch["target_ids"].reshape(-1), batch.get("target_index")
    if index is None:
        index = (target_ids != IGNORE).nonzero().squeeze(-1)
    return index, target_ids[index]

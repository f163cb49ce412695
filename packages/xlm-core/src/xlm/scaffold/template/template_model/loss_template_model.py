"""The loss of template_model: mean cross-entropy of the next token, −log p(x_i | x_<i)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from template_model.types_template_model import TemplateModelBatch, TemplateModelLossDict
from xlm.harness import Harness, LossFunction


class TemplateModelLoss(LossFunction[TemplateModelBatch, TemplateModelLossDict]):
    """Called in training, and on every loader for validation and test whose role is `loss`.

    The harness fills `model` and `tokenizer` where they are None. Further arguments are keys under `loss:` in
    configs/model_type/template_model.yaml.
    """

    def __init__(self, model: Any = None, tokenizer: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def configure(self, pl_module: Harness) -> None:
        """Runs once, on the device, before the first batch; for example to convert numbers to tensors."""

    def loss_fn(
        self,
        batch: TemplateModelBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> TemplateModelLossDict:
        """`loss` is minimized; all other entries of the dict are for metrics."""
        # TODO: your loss.
        logits = self.model(batch["input_ids"], batch["attention_mask"])  # (B, L, V)
        targets = batch["target_ids"]  # (B, L)
        loss = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)
        return {"loss": loss, "num_loss_terms": (targets != -100).sum()}

    def token_nll(self, batch: TemplateModelBatch) -> Float[Tensor, " targets"]:
        """−log p of every target, from which `xlm eval` reports perplexity and bits per byte.

        TODO: delete it if your loss is not an exact likelihood (see the guide on evaluation for bounds).
        """
        is_target = batch["target_ids"] != -100
        logits = self.model(batch["input_ids"], batch["attention_mask"])[is_target]
        return cross_entropy(logits.float(), batch["target_ids"][is_target], reduction="none")

"""Variants of the tidy model's components, each with a mistake that violates one property."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tidy.datamodule_tidy import TidyCollator
from tidy.loss_tidy import TidyLoss
from tidy.model_tidy import TidyNetwork
from tidy.predictor_tidy import TidyPredictor
from tidy.types_tidy import TidyBatch
from xlm.model import Model


def print_batch_of_another_model(batch: Any, split: str, tokenizer: Any, dataloader_name: str) -> None:
    """Shows a field that no batch has."""
    print(batch["noise"])


class UndeclaredField(TidyCollator):
    """Returns more than its type says."""

    def __call__(self, examples: Sequence[Any]) -> TidyBatch:
        return {**super().__call__(examples), "note": 1}  # type: ignore[typeddict-unknown-key]


class HoldsALambda(TidyCollator):
    """Cannot be pickled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.key = lambda example: example["input_ids"]


class DrawsGlobally(TidyCollator):
    """Advances torch's generator, although the batch does not depend on it."""

    def __call__(self, examples: Sequence[Any]) -> Any:
        torch.rand(1)
        return super().__call__(examples)


class NotANumber(TidyLoss):
    """0 / 0."""

    def loss_fn(self, *args: Any, **kwargs: Any) -> Any:
        found = super().loss_fn(*args, **kwargs)
        return {**found, "loss": found["loss"] * torch.nan}


class UndeclaredKey(TidyLoss):
    """Returns more than its type says."""

    def loss_fn(self, *args: Any, **kwargs: Any) -> Any:
        return {**super().loss_fn(*args, **kwargs), "note": 1}


class Uphill(TidyLoss):
    """The right value with the opposite gradient."""

    def loss_fn(self, *args: Any, **kwargs: Any) -> Any:
        found = super().loss_fn(*args, **kwargs)
        return {**found, "loss": 2 * found["loss"].detach() - found["loss"]}


class NeverCompiled(TidyLoss):
    """Its `__call__` does not use loss_fn."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().loss_fn(*args, **kwargs)


class FixedPrecision(TidyLoss):
    """Writes the logits of autocast into a buffer with the dtype of the weights."""

    def logits(self, batch: Any) -> Tensor:
        logits = super().logits(batch)
        collected = logits.new_zeros(logits.shape, dtype=self.model.embedding.weight.dtype)
        real = batch["attention_mask"]
        collected[real] = logits[real]
        return collected


class AveragesTwice(TidyLoss):
    """Divides by the number of processes, which DDP does too."""

    def loss_fn(self, *args: Any, **kwargs: Any) -> Any:
        found = super().loss_fn(*args, **kwargs)
        share = distributed.get_world_size() if distributed.is_initialized() else 1
        return {**found, "loss": found["loss"] / share}


class UnusedLayer(TidyNetwork):
    """Has a layer that forward doesn't use."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.forgotten = nn.Linear(2, 2)


class CentredBatch(TidyNetwork):
    """Subtracts the mean over the rows."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        return logits - logits.mean(dim=0, keepdim=True)


class SeesPadding(TidyNetwork):
    """Attends to padding."""

    def visible(self, attention_mask: Tensor) -> Tensor:
        return super().visible(torch.ones_like(attention_mask))


class LeftOnTheCPU(TidyNetwork):
    """Creates a tensor on the default device."""

    def visible(self, attention_mask: Tensor) -> Tensor:
        return super().visible(attention_mask) & torch.ones(attention_mask.shape[1], dtype=torch.bool)


class UnseededNoise(TidyNetwork):
    """Draws from an unseeded generator in training mode."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        generator = torch.Generator().manual_seed(secrets.randbits(60))
        return logits + torch.randn(logits.shape, generator=generator).to(logits) if self.training else logits


class ForgetsItsScale(TidyNetwork):
    """Draws a number that is not saved in checkpoints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = 1 + random.random()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.scale * super().forward(input_ids, attention_mask)


class Sizes:
    """An argument that JSON cannot represent."""

    def __init__(self, d_model: int) -> None:
        self.d_model = d_model


class TakesAnObject(nn.Module, Model):
    """Cannot be rebuilt from its config.json."""

    def __init__(self, num_embeddings: int, sizes: Sizes) -> None:
        super().__init__()
        self.inner = TidyNetwork(num_embeddings, sizes.d_model)
        self.embedding = self.inner.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.inner(input_ids, attention_mask)
        return logits


class OneText(TidyPredictor):
    """Returns the text of the first row only."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().predict(*args, **kwargs)
        return {**found, "text": found["text"][:1]}


class Endless(TidyPredictor):
    """Stops only at EOS."""

    def goes_on(self, num_steps: int, ended: Tensor) -> bool:
        return not bool(ended.all())


class Rewrites(TidyPredictor):
    """Overwrites the first token of the prompt."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().predict(*args, **kwargs)
        return {**found, "ids": found["ids"].masked_fill(found["ids"] > 6, 7)}


class OwnLength(TidyPredictor):
    """Ignores its limit."""

    def goes_on(self, num_steps: int, ended: Tensor) -> bool:
        return num_steps < 8 and not bool(ended.all())


class RowsOfTensors(TidyPredictor):
    """Leaves ids in the rows."""

    def to_dict(self, batch: Any, preds: Any) -> Any:
        return [{"prediction": ids} for ids in preds["ids"]]


def inputs_of_another_metric(batch: Any, outputs: Any, tokenizer: Any) -> dict[str, Any]:
    """Keywords that the metric doesn't take."""
    return {"perplexities": outputs["ids"]}

"""All four components of a bigram model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xlm.data.collate import pad_ids, pad_prompt_and_answer
from xlm.harness import Harness, LossFunction, Predictor
from xlm.model import Model


class Bigram(nn.Module, Model):
    """A table of logits, and dropout, so that random state matters."""

    def __init__(self, num_embeddings: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.table = nn.Embedding(num_embeddings, num_embeddings)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.dropout(self.table(input_ids))


class BigramLoss(nn.Module, LossFunction[dict[str, Tensor], dict[str, Any]]):
    """A Module on purpose: its `model` must not be registered a second time."""

    def __init__(self, model: Any = None, tokenizer: Any = None, scale: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.scale = scale
        self.num_configured = 0

    def configure(self, pl_module: Any) -> None:
        self.num_configured += 1

    def __call__(self, *args: Any) -> dict[str, Any]:
        return self.loss_fn(*args)

    def loss_fn(self, batch: dict[str, Tensor], *_: Any) -> dict[str, Any]:
        logits = self.model(batch["input_ids"])
        targets = batch["target_ids"]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        return {"loss": self.scale * loss, "num_loss_terms": (targets != -100).sum()}

    def token_nll(self, batch: dict[str, Tensor]) -> Tensor:
        is_target = batch["target_ids"] != -100
        logits = self.model(batch["input_ids"])[is_target]
        return nn.functional.cross_entropy(logits, batch["target_ids"][is_target], reduction="none")


class LossWithoutLikelihood(BigramLoss):
    """One of the many losses that are no −log p of anything."""

    token_nll = None  # type: ignore[assignment]


class LossWithDraws(BigramLoss):
    """The exact likelihood, as if it were a bound that is drawn."""

    token_nll = None  # type: ignore[assignment]

    def nll_bound(self, batch: dict[str, Any], num_samples: int = 1) -> Tensor:
        is_target = batch["target_ids"] != -100
        batch["num_tokens"] = is_target.sum(dim=1)  # this model's collator doesn't count them
        per_token = torch.zeros(is_target.shape, dtype=torch.float64)
        per_token[is_target] = super().token_nll(batch).double()
        return per_token.sum(dim=1, keepdim=True).expand(-1, num_samples)


class BigramPredictor(Predictor[dict[str, Tensor], dict[str, Any]]):
    """A fixed number of tokens, the likeliest or drawn ones."""

    def __init__(
        self, tokenizer: Any = None, noise_schedule: Any = None, model: Any = None, length: int = 8, greedy: bool = True
    ) -> None:
        self.tokenizer, self.noise_schedule, self.model = tokenizer, noise_schedule, model
        self.length, self.greedy = length, greedy

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], *_: Any) -> dict[str, Any]:
        ids = batch["input_ids"]
        for _ in range(self.length):
            logits = self.model(ids[:, -1:])[:, -1]
            new = logits.argmax(-1, keepdim=True) if self.greedy else logits.softmax(-1).multinomial(1)
            ids = torch.cat([ids, new], dim=1)
        start = batch["input_ids"].shape[1]
        return {"ids": ids, "output_start_idx": start, "steps_taken": torch.full((len(ids),), self.length)}

    def generate(self, prompts: list[str]) -> list[str]:
        examples = [{"prompt_ids": self.tokenizer.encode(prompt), "input_ids": []} for prompt in prompts]
        batch = Seq2SeqPredCollator(self.tokenizer)(examples)
        return [row["prediction"] for row in self.to_dict(batch, self.predict(batch))]

    def to_dict(self, batch: dict[str, Tensor], preds: dict[str, Any]) -> list[dict[str, Any]]:
        texts = self.tokenizer.batch_decode(preds["ids"][:, preds["output_start_idx"] :].tolist())
        return [{"prediction": text} for text in texts]


class TrackingLoss(nn.Module, LossFunction[dict[str, Tensor], dict[str, Any]]):
    """As short as the interface allows, with values to be tracked: of every batch, of some, and what is no scalar."""

    def __init__(self, model: Any = None, tokenizer: Any = None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def loss_fn(self, batch: dict[str, Tensor]) -> dict[str, Any]:  # type: ignore[override]
        is_target = batch["target_ids"] != -100
        losses = nn.functional.cross_entropy(
            self.model(batch["input_ids"])[is_target], batch["target_ids"][is_target], reduction="none"
        )
        found = {"loss": losses.mean(), "num_loss_terms": is_target.sum(), "hard": losses.gt(3).float().mean()}
        of_large = {"rows": len(is_target)} if len(is_target) > 4 else {}
        return {**found, **of_large, "losses": losses.detach(), "note": "no number", "phase": torch.tensor(1j)}


class ShortPredictor(BigramPredictor):
    """Takes a batch, and nothing else."""

    def predict(self, batch: dict[str, Tensor]) -> dict[str, Any]:  # type: ignore[override]
        return super().predict(batch)


class Seq2SeqCollator:
    """Prompt, BOS, answer, EOS; the answer is the target."""

    def __init__(self, tokenizer: Any, block_size: int | None = None, input_block_size: int | None = None) -> None:
        self.tokenizer = tokenizer

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        t = self.tokenizer
        prompts = [example["prompt_ids"] for example in examples]
        answers = [[t.bos_token_id, *example["input_ids"], t.eos_token_id] for example in examples]
        padded, start = pad_prompt_and_answer(prompts, answers, t.pad_token_id)
        targets = torch.full_like(padded.ids, -100)
        targets[:, start:-1] = padded.ids[:, start + 1 :].masked_fill(~padded.mask[:, start + 1 :], -100)
        return {"input_ids": padded.ids, "attention_mask": padded.mask, "target_ids": targets}


class Seq2SeqPredCollator(Seq2SeqCollator):
    """Prompt and BOS; the answer apart."""

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        t = self.tokenizer
        bos = [[t.bos_token_id]] * len(examples)
        padded, _ = pad_prompt_and_answer([example["prompt_ids"] for example in examples], bos, t.pad_token_id)
        targets = pad_ids([[*example["input_ids"], t.eos_token_id] for example in examples], t.pad_token_id)
        return {"input_ids": padded.ids, "attention_mask": padded.mask, "target_ids": targets.ids}


def print_batch(batch: dict[str, Tensor], split: str, tokenizer: Any, dataloader_name: str) -> None:
    """Say which loader's batch this is."""
    print(f"first batch of {split}/{dataloader_name}: {tuple(batch['input_ids'].shape)}")


class CountRows:
    """A post-hoc evaluator that counts."""

    def eval(
        self, predictions: list[dict[str, Any]], tokenizer: Any = None
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        return predictions, {"num_rows": len(predictions)}


def say_hello(cfg: Any) -> str:
    """A custom job."""
    print(f"hello from {cfg.job_name}")
    return "hello"


class SilentHarness(Harness):
    """Overrides hooks as published harnesses do, which know that Lightning's own do nothing."""

    def on_validation_start(self) -> None:
        pass

    def on_test_start(self) -> None:
        pass

    def top_level_named_modules(self) -> Any:
        return [("the table", self.model.table)]

"""Greedy decoding, the whole sequence anew at each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tidy.types_tidy import TidyBatch, TidyPredictionDict
from xlm.harness import Predictor


class TidyPredictor(Predictor[TidyBatch, TidyPredictionDict]):
    """The likeliest token, until every row has ended or is `max_length` long."""

    def __init__(
        self, tokenizer: Any = None, noise_schedule: Any = None, model: Any = None, max_length: int = 8
    ) -> None:
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.model = model
        self.max_length = max_length

    def goes_on(self, num_steps: int, ended: Tensor) -> bool:
        """Whether another token is wanted."""
        return num_steps < self.max_length and not bool(ended.all())

    @torch.no_grad()
    def predict(
        self,
        batch: TidyBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> TidyPredictionDict:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        start = ids.shape[1]
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        steps = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        while self.goes_on(ids.shape[1] - start, ended):
            logits = self.model(ids, mask)[:, -1].index_fill(
                -1, torch.tensor([self.tokenizer.pad_token_id], device=ids.device), -torch.inf
            )
            token = torch.where(ended, self.tokenizer.pad_token_id, logits.argmax(dim=-1))
            steps += ~ended
            ids = torch.cat([ids, token[:, None]], dim=1)
            mask = torch.cat([mask, ~ended[:, None]], dim=1)
            ended = ended | (token == self.tokenizer.eos_token_id)
        text = self.tokenizer.batch_decode(ids[:, start:].tolist(), skip_special_tokens=True)
        return {"ids": ids, "text": text, "output_start_idx": start, "steps_taken": steps}

    def to_dict(self, batch: TidyBatch, preds: TidyPredictionDict) -> list[dict[str, Any]]:
        return [{"prediction": text} for text in preds["text"]]

    def generate(self, prompts: list[str]) -> list[str]:
        from tidy.datamodule_tidy import TidyPredCollator

        collate = TidyPredCollator(self.tokenizer)
        return self.predict(
            collate([{"prompt_ids": self.tokenizer(p)["input_ids"], "input_ids": []} for p in prompts])
        )["text"]

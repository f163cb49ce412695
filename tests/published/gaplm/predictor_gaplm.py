"""Writes one position after the other."""

from __future__ import annotations

from typing import Any

import torch

from xlm.harness import Predictor, PredictorHistoryMixin
from xlm.utils.nn import sample_from_top_p


class GapPredictor(torch.nn.Module, PredictorHistoryMixin, Predictor[dict, dict]):
    """Fills the masks from left to right."""

    def __init__(self, max_steps: int, top_p: float = 0.9, tokenizer=None, noise_schedule=None, model=None):
        super().__init__()
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.model = model
        self.max_steps = max_steps
        self.top_p = top_p
        self.init_history(return_history=False)

    @torch.no_grad()
    def predict(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None) -> dict[str, Any]:
        ids = batch["input_ids"].clone()
        steps = [int(place) for place in (ids == self.tokenizer.mask_token_id).any(dim=0).nonzero()][: self.max_steps]
        for place in steps:
            logits = self.model(ids, batch["attention_mask"])[:, place]
            logits[:, self.tokenizer.mask_token_id] = -float("inf")
            chosen = sample_from_top_p(self.top_p, logits)
            ids[:, place] = torch.where(ids[:, place] == self.tokenizer.mask_token_id, chosen, ids[:, place])
        text = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return {"ids": ids, "text": text, "output_start_idx": 0, "steps_taken": [len(steps)] * len(text)}

    def to_dict(self, batch, preds, **kwargs: Any) -> list[dict[str, Any]]:
        rows = zip(preds["text"], preds["ids"].tolist(), preds["steps_taken"], strict=True)
        return [{"text": text, "ids": ids, "steps_taken": steps} for text, ids, steps in rows]

"""Greedy or sampled, one token a row and step."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from slotlm.types_slotlm import SlotBatch, SlotPrediction
from xlm import flags
from xlm.datamodule import Tokenizer
from xlm.harness import Predictor, PredictorHistoryMixin
from xlm.log_predictions import TokensHook
from xlm.noise import NoiseSchedule
from xlm.utils.nn import sample_from_logits, sample_from_top_k, sample_from_top_p
from xlm.utils.text import remove_trailing_pads


class SlotPredictor(torch.nn.Module, PredictorHistoryMixin, Predictor[SlotBatch, SlotPrediction]):
    """Goes on until the model says that nothing comes any more."""

    def __init__(
        self,
        max_steps: int,
        max_length: int,
        tokenizer: Tokenizer | None = None,
        noise_schedule: NoiseSchedule | None = None,
        model: Any = None,
        sampling_method: Literal["sample", "sample_top_k", "sample_top_p"] = "sample",
        top: int = 1,
        p: float = 0.9,
        stopping_threshold: float = 0.5,
        return_history: bool = False,
        tokens_hook: TokensHook | None = None,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.model = model
        self.max_steps = max_steps
        self.max_length = max_length
        self.stopping_threshold = stopping_threshold
        self.tokens_hook = tokens_hook
        self.sampling_function = {
            "sample": sample_from_logits,
            "sample_top_k": partial(sample_from_top_k, top),
            "sample_top_p": partial(sample_from_top_p, p),
        }[sampling_method]
        self.init_history(return_history=return_history, decode_fn=self.decode)

    def decode(self, state: dict[str, Any]) -> tuple[list[str], list[int]]:
        start = state["output_start_idx"]
        rows = [[token for token in row[start:] if token != self.tokenizer.pad_token_id] for row in state["rows"]]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True), [len(row) for row in rows]

    @torch._dynamo.disable()
    @torch.no_grad()
    def predict(
        self,
        batch: SlotBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> SlotPrediction:
        input_ids, mask = batch["input_ids"], batch["attention_mask"]
        start = input_ids.shape[1]
        rows, masks = input_ids.tolist(), mask.tolist()
        going = [True] * len(rows)
        steps_taken = [0] * len(rows)
        history = self.create_history(batch_size=len(rows))
        for step in range(self.max_steps):
            chosen, confidence = self._step(rows, masks, start, input_ids.device)
            for i, token in enumerate(chosen):
                going[i] = going[i] and token is not None and len(rows[i]) - start < self.max_length
                if going[i]:
                    rows[i].append(token)
                    masks[i].append(True)
                    steps_taken[i] += 1
            state = {
                "rows": rows,
                "output_start_idx": start,
                "confidence": confidence,
                "active": torch.tensor(going),
            }
            history = self.update_history_from_state(history, state, step, active_mask_key="active")
            if not any(going):
                break
        ids, _ = self._pad(rows, masks, input_ids.device)
        if self.tokens_hook is not None:
            ids = self.tokens_hook({"batch_idx": batch_idx}, input_ids, ids)
        text, _ = self.decode({"rows": ids.tolist(), "output_start_idx": start})
        return {
            "ids": ids,
            "text": text,
            "output_start_idx": start,
            "steps_taken": steps_taken,
            "history": self.format_history_for_output(history, round_precision=3),
        }

    def _pad(self, rows: list[list[int]], masks: list[list[bool]], device: Any) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([row + [False] * (longest - len(row)) for row in masks], device=device)
        return ids, mask

    def _step(self, rows, masks, start, device) -> tuple[list[int | None], Tensor]:
        ids, mask = self._pad(rows, masks, device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        types = (torch.arange(ids.shape[1], device=device) >= start - 1).long().expand_as(ids)
        logits, open_logits = self.model(ids, mask, positions, types)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        each = torch.arange(len(ids), device=device)
        confidence, chosen = open_logits[each, last].sigmoid(), logits[each, last]
        for special in ("pad", "mask", "bos", "eos", "cls", "unk"):
            chosen[:, getattr(self.tokenizer, f"{special}_token_id")] = -float("inf")
        tokens = self.sampling_function(chosen)
        if flags.DEBUG_VIZ_LOGITS:
            print(chosen)
        return [
            int(token) if float(sure) > self.stopping_threshold else None
            for token, sure in zip(tokens, confidence, strict=True)
        ], confidence

    def generate(self, prompts: list[str]) -> list[str]:
        tokenizer = self.tokenizer
        encoded = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        longest = max(map(len, encoded))
        rows = [
            [tokenizer.pad_token_id] * (longest - len(ids)) + list(ids) + [tokenizer.bos_token_id] for ids in encoded
        ]
        device = next(self.model.parameters()).device
        ids = torch.tensor(rows, device=device)
        return self.predict({"input_ids": ids, "attention_mask": ids != tokenizer.pad_token_id})["text"]

    def to_dict(self, batch: SlotBatch, preds: SlotPrediction, **kwargs: Any) -> list[dict[str, Any]]:
        prompts = [
            remove_trailing_pads(text, self.tokenizer) for text in self.tokenizer.batch_decode(batch["input_ids"])
        ]
        rows = []
        for i, text in enumerate(preds["text"]):
            row = {
                "text": text,
                "prompt": prompts[i],
                "ids": preds["ids"][i].tolist(),
                "steps_taken": preds["steps_taken"][i],
                "history": preds["history"][i],
            }
            if batch.get("target_ids") is not None:
                row["truth"] = self.tokenizer.decode(batch["target_ids"][i], skip_special_tokens=True)
            rows.append(row)
        return rows

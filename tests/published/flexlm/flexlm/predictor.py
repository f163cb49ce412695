"""Unmasks some positions a step, the surest or some at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from flexlm.types import FlexBatch, FlexPrediction
from xlm import flags
from xlm.datamodule import NoiseSchedule, Tokenizer
from xlm.harness import Harness, Predictor, PredictorHistoryMixin
from xlm.log_predictions import TokensHook
from xlm.utils.imports import get_function
from xlm.utils.nn import add_exp_1_noise, add_gumbel_noise, sample_categorical, select_random_indices


class FlexPredictor(torch.nn.Module, PredictorHistoryMixin, Predictor[FlexBatch, FlexPrediction]):
    """Starts from masks after the prompt; what follows the first EOS is no part of the answer."""

    def __init__(
        self,
        max_steps: int,
        max_new_tokens: int,
        tokenizer: Tokenizer | None = None,
        noise_schedule: NoiseSchedule | None = None,
        model: Any = None,
        confidence: Literal["greedy", "sample"] = "greedy",
        noise: Literal["none", "gumbel", "exp_1"] = "none",
        temperature: float = 1.0,
        return_history: bool = False,
        tokens_hook: TokensHook | str | None = None,
    ):
        super().__init__()
        self.max_steps = max_steps
        self.max_new_tokens = max_new_tokens
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.model = model
        self.confidence = confidence
        self.temperature = temperature
        self.add_noise: Callable[..., Tensor] | None = {
            "none": None,
            "gumbel": add_gumbel_noise,
            "exp_1": add_exp_1_noise,
        }[noise]
        self.tokens_hook = get_function(tokens_hook) if isinstance(tokens_hook, str) else tokens_hook
        self.init_history(return_history)

    @torch.no_grad()
    def predict(
        self, batch: FlexBatch, batch_idx=None, dataloader_idx=None, dataloader_name: str | None = None
    ) -> FlexPrediction:
        prompt, prompt_mask = batch["input_ids"], batch["attention_mask"]
        B, start = prompt.shape
        masks = prompt.new_full((B, self.max_new_tokens), self.tokenizer.mask_token_id)
        x = torch.cat([prompt, masks], dim=1)
        mask = torch.cat([prompt_mask, torch.ones_like(masks, dtype=torch.bool)], dim=1)
        history = self.create_history(B)
        steps = torch.zeros(B, dtype=torch.long, device=x.device)
        per_step = -(-self.max_new_tokens // self.max_steps)
        for step in range(self.max_steps):
            is_masked = x == self.tokenizer.mask_token_id
            remaining = is_masked.sum(dim=1)
            if not bool(remaining.any()):
                break
            logits = self.model(x, self._time(remaining), mask)
            x_new, score = self._choose(logits)
            chosen = select_random_indices(
                tuple(x.shape),
                remaining.clamp(max=per_step),
                select_from_mask=is_masked,
                selection_score=score,
                temperature=self.temperature,
                selection_mode=self.confidence,
                score_mode="logits",
            )
            x = torch.where(chosen, x_new, x)
            steps += remaining > 0
            texts = self.tokenizer.batch_decode(x[:, start:])
            history = self.update_history_explicit(history, texts, score.mean(dim=1), step, remaining > 0)
        if self.tokens_hook is not None:
            x = self.tokens_hook({"dataloader_name": dataloader_name}, prompt, x)
        state = {"ids": x, "confidence": torch.ones(B, device=x.device), "active": steps > 0}
        history = self.update_history_from_state(history, state, self.max_steps, "confidence", "active")
        if flags.DEBUG_PRINT_PREDS:
            print(x[0].tolist())
        return {
            "ids": x,
            "text": self.tokenizer.batch_decode(self._cut(x[:, start:]), skip_special_tokens=True),
            "output_start_idx": start,
            "steps_taken": steps,
            "history": self.format_history_for_output(history),
        }

    def _time(self, remaining: Tensor) -> Tensor:
        return self.noise_schedule.time_of((remaining / self.max_new_tokens).float()).clamp(min=1e-3)

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.add_noise is not None:
            probs = torch.softmax(logits.double(), dim=-1)
            x_new = sample_categorical(probs)
            score = self.add_noise(logits.max(dim=-1).values.double())
            return x_new, score.float()
        best = torch.log_softmax(logits, dim=-1).max(dim=-1)
        return best.indices, best.values

    def _cut(self, rows: Tensor) -> list[list[int]]:
        eos = self.tokenizer.eos_token_id
        return [row[: row.index(eos)] if eos in row else row for row in rows.tolist()]

    def generate(self, prompts: list[str]) -> list[str]:
        pad, bos = self.tokenizer.pad_token_id, self.tokenizer.bos_token_id
        rows = [[*self.tokenizer.encode(prompt, add_special_tokens=False), bos] for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        ids = ids.to(next(self.model.parameters()).device)
        return self.predict({"input_ids": ids, "attention_mask": ids != pad})["text"]

    def to_dict(self, batch: FlexBatch, preds: FlexPrediction) -> list[dict[str, Any]]:
        decode = self.tokenizer.batch_decode
        prompts = decode(batch["input_ids"], skip_special_tokens=True)
        truths = decode(self._cut(batch["target_ids"]), skip_special_tokens=True)
        return [
            {"prompt": prompt, "text": text, "truth": truth, "steps": int(steps), "history": history}
            for prompt, text, truth, steps, history in zip(
                prompts, preds["text"], truths, preds["steps_taken"], preds["history"], strict=True
            )
        ]


def count_hook(metadata: dict[str, Any], x_in: Tensor, x_out: Tensor) -> Tensor:
    """Say what was written, and leave it as it is."""
    print(f"FLEXLM HOOK {metadata['dataloader_name']}: {x_in.shape[1]} to {x_out.shape[1]} tokens")
    return x_out


class FlexPredictorWithoutHistory(FlexPredictor):
    """For a harness that asks for nothing."""

    harness: Harness | None = None

"""The predictor of template_model: greedy decoding, one token at a time, until EOS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from template_model.datamodule_template_model import TemplateModelSeq2SeqPredCollator
from template_model.types_template_model import TemplateModelPredictionBatch, TemplateModelPredictionDict
from xlm.decoding.trace import begin_trace, recording
from xlm.harness import Predictor
from xlm.utils.annotations import Count
from xlm.utils.instantiate import check_arguments


class TemplateModelPredictor(Predictor[TemplateModelPredictionBatch, TemplateModelPredictionDict]):
    """Called on every loader whose role is `prediction`, and by `xlm generate`.

    The harness fills `tokenizer`, `noise_schedule` and `model` where they are None. Further arguments are keys under
    `predictor:` in configs/model_type/template_model.yaml.

    Args:
        max_length: maximum length of an answer, EOS included.
    """

    def __init__(
        self, tokenizer: Any = None, noise_schedule: Any = None, model: Any = None, max_length: Count = 64
    ) -> None:
        check_arguments(TemplateModelPredictor, locals(), "predictor")  # by the annotations above
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.model = model
        self.max_length = max_length

    @torch.no_grad()
    def predict(
        self,
        batch: TemplateModelPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> TemplateModelPredictionDict:
        """An answer for every row of `input_ids` (B, P): `ids` (B, P + T), the answers from column P on."""
        # TODO: your decoding. `xlm trace` shows what is passed to `trace`.
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        start = ids.shape[1]
        begin_trace(batch, start, self.tokenizer)
        trace = recording()  # None unless a trace is recorded
        never = self._never_written()
        going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)  # (B,): rows without an EOS so far
        steps = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        for _ in range(self.max_length):
            logits = self.model(ids, mask)[:, -1]  # (B, V)
            logits[:, never] = -torch.inf
            token = logits.argmax(dim=-1).masked_fill(~going, self.tokenizer.pad_token_id)
            if trace is not None:
                rows = going.nonzero().squeeze(1)
                trace.step(rows)
                trace.appended(rows, token[rows], logits[rows])
            ids = torch.cat([ids, token[:, None]], dim=1)
            mask = torch.cat([mask, going[:, None]], dim=1)
            steps += going
            going = going & (token != self.tokenizer.eos_token_id)
            if not bool(going.any()):
                break
        return {
            "ids": ids,
            "attention_mask": mask,
            "text": self._decoded(ids[:, start:]),
            "output_start_idx": start,
            "steps_taken": steps,
        }

    def _never_written(self) -> list[int]:
        """Special tokens that an answer never contains."""
        ids = {getattr(self.tokenizer, f"{name}_token_id", None) for name in ("pad", "mask", "bos", "cls")}
        # Some tokenizers use one token for two purposes; an answer must be able to end.
        return sorted(token for token in ids - {self.tokenizer.eos_token_id} if token is not None)

    def _decoded(self, ids: Tensor) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)
        return texts

    def to_dict(self, batch: TemplateModelPredictionBatch, preds: TemplateModelPredictionDict) -> list[dict[str, Any]]:
        """One JSON-serializable row for each example. TODO: add whatever you want to look at later."""
        rows: list[dict[str, Any]] = [
            {"prompt": prompt, "prediction": text, "steps_taken": steps}
            for prompt, text, steps in zip(
                self._decoded(batch["input_ids"]), preds["text"], preds["steps_taken"].tolist(), strict=True
            )
        ]
        truth = batch.get("target_ids")
        if truth is not None:
            for row, text in zip(rows, self._decoded(truth), strict=True):
                row["truth"] = text
        return rows

    def generate(self, prompts: list[str]) -> list[str]:
        """Answers to prompts given as text; for `xlm generate +generation.prompts=[…]` and `xlm.load`."""
        collate = TemplateModelSeq2SeqPredCollator(self.tokenizer)
        encoded = [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        batch = collate([{"prompt_ids": ids} for ids in encoded])
        device = next(self.model.parameters()).device
        on_device: Any = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
        return self.predict(on_device)["text"]

"""Left-to-right generation with a KV cache; rows that have ended leave the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arlm.datamodule_arlm import ARLMSeq2SeqPredCollator
from arlm.types_arlm import ARLMPredictionBatch, ARLMPredictionDict
from xlm.data.collate import noise_seeds, pad_ids
from xlm.decoding.counter_rng import draw_tokens, row_seeds, token_keys
from xlm.decoding.options import say_unread, suppressed_ids, unread_filters
from xlm.decoding.prompts import answers, prompt_examples
from xlm.decoding.trace import begin_trace, recording
from xlm.harness import Predictor
from xlm.sampling import LogitsSampler
from xlm.utils.annotations import AnySeed, Count, NonNegative, Probability, Share
from xlm.utils.instantiate import check_arguments
from xlm.utils.text import remove_trailing_pads


@dataclass(eq=False, repr=False)
class ARLMPredictor(Predictor[ARLMPredictionBatch, ARLMPredictionDict]):
    """Draws one token per row and step until EOS or `max_length`.

    Args:
        tokenizer, noise_schedule, model: filled by the harness; the schedule is unused.
        max_length: most tokens of an answer, EOS included.
        temperature: of the softmax; 0 is greedy.
        top_k, top_p, min_p: filters on the logits; None for none.
        repetition_limit: a row ends when it repeats one block of up to 8 tokens this often in a row; None for never.
        use_cache: keep keys and values instead of running the whole sequence again at each step.
        seed: what a row draws follows from the example's own seed and this; without either, from torch's global
            generator.
    """

    tokenizer: Any = None
    noise_schedule: Any = None
    model: Any = None
    max_length: Count = 128
    temperature: NonNegative = 0.0
    top_k: Count | None = None
    top_p: Share | None = None
    min_p: Probability | None = None
    repetition_limit: Count | None = None
    use_cache: bool = True
    seed: AnySeed | None = None

    def __post_init__(self) -> None:
        check_arguments(ARLMPredictor, vars(self), "predictor")
        self.sampler = LogitsSampler(self.temperature, self.top_k, self.top_p, self.min_p)
        self.unread = say_unread(ARLMPredictor, vars(self), unread_filters(self.sampler))

    @property
    def is_greedy(self) -> bool:
        """Whether it always generates the same text, because the temperature is 0."""
        return self.temperature == 0

    @torch.no_grad()
    def predict(
        self,
        batch: ARLMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ARLMPredictionDict:
        """Go on from every row of `input_ids` (B, P), left-padded.

        Returns:
            `ids` (B, P + T): the input followed by the answer with its EOS, then pads; `output_start_idx` is P.
            `steps_taken` (B,): tokens drawn per row. `network_calls` (B,): forward passes in which a row took part,
            the same numbers.
        """
        input_ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        begin_trace(batch, input_ids.shape[1], self.tokenizer)
        seeds = row_seeds(len(input_ids), self.seed, batch.get("noise_seed"), input_ids.device)
        answers, steps = self._decode(input_ids, mask, seeds)
        pad = self.tokenizer.pad_token_id
        columns = torch.arange(answers.shape[1], device=answers.device)
        answer_mask = columns < steps[:, None]
        text = [remove_trailing_pads(t, self.tokenizer) for t in self.tokenizer.batch_decode(answers.tolist())]
        return {
            "ids": torch.cat([input_ids, answers.masked_fill(~answer_mask, pad)], dim=1),
            "attention_mask": torch.cat([mask, answer_mask], dim=1),
            "text": text,
            "output_start_idx": input_ids.shape[1],
            "steps_taken": steps,
            "network_calls": steps,
        }

    def _decode(self, input_ids: Tensor, mask: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Answers (B, T) with pads after the end, tokens drawn per row (B,)."""
        B, P = input_ids.shape
        device = input_ids.device
        answers = torch.full((B, self.max_length), self.tokenizer.pad_token_id, device=device)
        steps = torch.zeros(B, dtype=torch.long, device=device)
        rows = torch.arange(B, device=device)  # which rows still go on
        cache = self.model.new_cache(P + self.max_length) if self.use_cache else None
        new, new_mask = input_ids, mask if not bool(mask.all()) else None
        keys = token_keys(seeds[:, None], torch.arange(self.max_length, device=device))  # of all draws at once
        number, trace, never = 0, recording(), None
        while number < self.max_length and len(rows):
            logits = self.model(new, new_mask, cache=cache, last_only=True)[:, -1]
            never = self._never(logits) if never is None else never
            allowed = self._allowed(logits, never)
            token = draw_tokens(self.sampler, allowed, keys[:, number])
            if trace is not None:
                trace.step(rows)
                trace.appended(rows, token, allowed)
            answers[rows, number] = token
            number += 1
            going = token != self.tokenizer.eos_token_id
            if self.repetition_limit is not None:
                going &= ~repeats(answers[rows, :number], self.repetition_limit)
            if cache is not None:
                new, new_mask = token[:, None], None
            else:
                new = torch.cat([new, token[:, None]], dim=1)
                new_mask = None if new_mask is None else torch.cat([new_mask, torch.ones_like(new_mask[:, :1])], 1)
            if not bool(going.all()):
                steps[rows[~going]] = number
                rows, new, keys = rows[going], new[going], keys[going]
                new_mask = None if new_mask is None else new_mask[going]
                if cache is not None:
                    cache.select(going)
        steps[rows] = number
        return answers[:, :number], steps

    def _never(self, logits: Tensor) -> Tensor:
        """Ids that never belong into an answer; asking a tokenizer for them can take longer than a small network."""
        never = suppressed_ids(self.tokenizer, num_logits=logits.shape[-1])
        return torch.tensor(never, dtype=torch.long, device=logits.device)

    def _allowed(self, logits: Tensor, never: Tensor | None = None) -> Tensor:
        """Logits with these ids excluded; None for those of `_never`."""
        return logits.index_fill(-1, self._never(logits) if never is None else never, -torch.inf)

    def to_dict(self, batch: ARLMPredictionBatch, preds: ARLMPredictionDict) -> list[dict[str, Any]]:
        """Rows of prompt, prediction, truth (where the batch has it), steps and network calls."""
        decode = self.tokenizer.batch_decode
        start = preds["output_start_idx"]
        prompts = decode(batch["input_ids"].tolist(), skip_special_tokens=True)
        predictions = decode(preds["ids"][:, start:].tolist(), skip_special_tokens=True)
        rows = [
            {"prompt": prompt, "prediction": prediction, "steps_taken": steps, "network_calls": steps}
            for prompt, prediction, steps in zip(prompts, predictions, preds["steps_taken"].tolist(), strict=True)
        ]
        truth = batch.get("target_ids")
        if truth is not None:
            for row, text in zip(rows, decode(truth.tolist(), skip_special_tokens=True), strict=True):
                row["truth"] = text
        return rows

    def generate(self, prompts: list[str]) -> list[str]:
        """Answers to prompts, without special tokens; the prompts may have different lengths.

        The n-th prompt draws from the stream of (seed, n); without a seed, from torch's global generator.
        """
        examples = prompt_examples(prompts, self.tokenizer, self.seed)
        return answers(self, examples, {"": ARLMSeq2SeqPredCollator(self.tokenizer)}, [""] * len(prompts))

    def continue_text(self, prompts: list[str]) -> list[str]:
        """What follows the beginnings of texts, for a model that learnt whole texts: BOS stands before a prompt.

        Draws as `generate` does.
        """

        def begun(examples: list[dict[str, Any]]) -> ARLMPredictionBatch:
            rows = [[self.tokenizer.bos_token_id, *example["prompt_ids"]] for example in examples]
            padded = pad_ids(rows, self.tokenizer.pad_token_id, side="left")
            return {"input_ids": padded.ids, "attention_mask": padded.mask, "noise_seed": noise_seeds(examples)}

        return answers(self, prompt_examples(prompts, self.tokenizer, self.seed), {"": begun}, [""] * len(prompts))


def repeats(ids: Tensor, limit: int, max_period: int = 8) -> Tensor:
    """(B,) bool: the row ends with one block of at most `max_period` tokens, `limit` times in a row."""
    B, T = ids.shape
    found = torch.zeros(B, dtype=torch.bool, device=ids.device)
    for period in range(1, max_period + 1):
        if period * limit <= T:
            blocks = ids[:, T - period * limit :].view(B, limit, period)
            found |= (blocks == blocks[:, :1]).all(dim=(1, 2))
    return found

"""Generation by insertion: a token per row and step, into gaps that are open, until CLS says complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from ilm.datamodule_ilm import ILMInfillCollator, ILMSeq2SeqPredCollator
from ilm.rows_ilm import Rows, joined
from ilm.sampling_ilm import Head, choose, choose_pair, choose_slots
from ilm.types_ilm import REST_TYPE, ILMPredictionBatch, ILMPredictionDict
from xlm.decoding.counter_rng import row_seeds, token_keys, uniform_of
from xlm.decoding.options import say_unread, suppressed_ids
from xlm.decoding.prompts import answers, device_of, prompt_examples
from xlm.decoding.trace import Recorder, begin_trace, recording, writing
from xlm.errors import ConfigError
from xlm.harness import Predictor
from xlm.sampling import LogitsSampler, sampling_dtype
from xlm.utils.annotations import AnySeed, Count, NonNegative, Probability, Share
from xlm.utils.instantiate import check_arguments
from xlm.utils.text import remove_trailing_pads

# Steps whose draws are prepared together.
_STEPS_AT_ONCE = 256
# From this share of a batch on, the last layer computes all positions.
_MOST_CHOSEN = 0.9


@dataclass(eq=False, repr=False)
class ILMPredictor(Predictor[ILMPredictionBatch, ILMPredictionDict]):
    """Inserts tokens where the batch's `constraint` allows; rows that have ended leave the batch.

    Without filters, `slot_first` and `joint` draw from the same distribution, the softmax over all (gap, token). The
    published greedy decoding is `top_k=1, slot_top_k=2`: the best token of one of the two best gaps.

    Args:
        tokenizer, noise_schedule, model: filled by the harness; the schedule is unused.
        max_length: most tokens behind BOS, those of an infilling's text included.
        max_steps: most steps of a row; None for as many as `max_length` allows.
        stopping_threshold: a row ends when CLS says complete with at least this probability; None draws the end
            with that probability, which makes samples follow the model's own law.
        sampling: "slot_first" draws a gap by its share, then a token in it; "joint" draws the pair.
        temperature: of the softmax over (gap, token); 0 takes the best of each.
        top_k, top_p: filters on the logits, of the tokens of the chosen gap, or in "joint" of all pairs; None: none.
        slot_top_k, slot_top_p: filters on the gaps' logits; "slot_first" only.
        parallel_slots: up to so many tokens per step, into gaps that don't touch; "slot_first" only. Faster, and no
            longer exact: tokens of one step don't see each other.
        parallel_min_prob: share of the probability that a step's second gap and further ones need.
        suppressed_tokens: tokens never to insert, besides mask, pad, EOS, BOS, CLS and SEP.
        seed: what a row draws follows from the example's own seed and this; without either, from torch's global
            generator.
    """

    # A mask in a text stands for any number of tokens.
    fills_any_length: ClassVar[bool] = True

    tokenizer: Any = None
    noise_schedule: Any = None
    model: Any = None
    max_length: Count = 128
    max_steps: Count | None = None
    stopping_threshold: NonNegative | None = 0.9
    sampling: Literal["slot_first", "joint"] = "slot_first"
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: Share | None = None
    slot_top_k: Count | None = None
    slot_top_p: Share | None = None
    parallel_slots: Count = 1
    parallel_min_prob: Probability = 0.1
    suppressed_tokens: Sequence[str] = ()
    seed: AnySeed | None = None

    def __post_init__(self) -> None:
        given = dict(vars(self))
        check_arguments(ILMPredictor, given, "predictor")
        if self.suppressed_tokens and self.tokenizer is not None:
            suppressed_ids(self.tokenizer, self.suppressed_tokens)  # an unknown one is reported before training
        filters = (self.slot_top_k, self.slot_top_p)
        if self.sampling == "joint" and (filters != (None, None) or self.parallel_slots > 1):
            raise ConfigError(
                "predictor.sampling=joint draws gap and token together: slot_top_k and slot_top_p must be null and "
                "parallel_slots 1."
            )
        greedy = self.temperature == 0
        # The temperature is the head's: a gap's share is that of its tempered tokens.
        self.temperature = 1.0 if greedy else self.temperature
        self.sampler = LogitsSampler(0.0 if greedy else 1.0, self.top_k, self.top_p)
        self.slot_sampler = LogitsSampler(0.0 if greedy else 1.0, *filters)
        self.unread = say_unread(ILMPredictor, given, self._unread())

    def _unread(self) -> dict[str, str]:
        """Option → why it has no effect beside the others."""
        unread: dict[str, str] = {}
        if self.parallel_slots == 1:
            unread["parallel_min_prob"] = "parallel_slots=1 inserts one token a step"
        if self.sampler.top_k == 1:
            # In "slot_first" the temperature still decides what share of the probability a gap has.
            names = ["top_p", *(["temperature"] if self.sampling == "joint" else [])]
            unread |= dict.fromkeys(names, "top_k=1 always takes the most likely token")
        if self.slot_sampler.top_k == 1:
            unread["slot_top_p"] = "slot_top_k=1 always takes the best gap"
        if self.sampler.temperature == 0:
            filters = ("top_k", "top_p", "slot_top_k", "slot_top_p")
            unread |= dict.fromkeys(filters, "temperature=0 always takes the best gap and its best token")
        return unread

    @property
    def is_greedy(self) -> bool:
        """Whether it always generates the same text: the likeliest tokens, with a threshold for the end."""
        return self.sampler.temperature == 0 and self.stopping_threshold is not None

    @torch.no_grad()
    def predict(
        self,
        batch: ILMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> ILMPredictionDict:
        """Insert into every row of the batch; see `ILMPredictionDict` for what comes back."""
        start = (batch["token_type_ids"] == REST_TYPE).long().argmax(dim=1) + 1
        begin_trace(batch, start, self.tokenizer)
        rows, steps, calls, complete = self._decode(batch)
        answers = [ids[s:].tolist() for ids, s in zip(rows.ids, start.tolist(), strict=True)]
        return {
            "ids": rows.ids,
            "attention_mask": rows.mask,
            "text": [remove_trailing_pads(text, self.tokenizer) for text in self.tokenizer.batch_decode(answers)],
            "output_start_idx": start,
            "insertion_order": rows.order,
            "steps_taken": steps,
            "network_calls": calls,
            "complete": complete,
        }

    def _decode(self, batch: ILMPredictionBatch) -> tuple[Rows, Tensor, Tensor, Tensor]:
        """The finished rows, and of each: steps taken, network calls, whether CLS ended it."""
        rows, step = Rows.of(batch), 0
        B, device = len(rows.index), rows.ids.device
        max_steps = self.max_steps or self.max_length
        steps, calls = (torch.zeros(B, dtype=torch.long, device=device) for _ in range(2))
        complete = torch.zeros(B, dtype=torch.bool, device=device)
        seeds, drawn = row_seeds(B, self.seed, batch.get("noise_seed"), device), rows.index
        # One number for the end, one per gap, one per token.
        draws = torch.arange(1 + 2 * self.parallel_slots, device=device)
        room = self.max_length + 1 - (rows.mask & (rows.types == REST_TYPE)).sum(dim=1)  # of the rows that go on
        ended = [rows.select(rows.index[:0])]  # as wide as the batch
        head, trace = self._head(self.temperature), recording()

        def leave(which: Tensor, num_steps: int) -> Tensor:
            """Put the rows of a mask aside; the indices of the others."""
            ended.append(rows.select(which))
            steps[ended[-1].index], calls[ended[-1].index] = num_steps, step
            return (~which).nonzero().squeeze(1)

        while len(rows.index):
            live = rows.is_open.any(dim=1) & (room > 0) & (step < max_steps)
            if not bool(live.all()):
                on = leave(~live, step)
                rows, room = rows.select(on), room[on]
                if not len(on):
                    break
            if step % _STEPS_AT_ONCE == 0:
                keys = token_keys(seeds[:, None], torch.arange(step, step + _STEPS_AT_ONCE, device=device))
                drawn = uniform_of(keys[:, :, None], draws)
            u = drawn[rows.index, step % _STEPS_AT_ONCE]
            hidden = self._hidden(rows)
            step += 1
            length_logits = self.model.length_logits(hidden, rows.cls_position)
            done = self._is_complete(length_logits, u[:, 0])
            if trace is not None:
                trace.step(rows.index)
                trace.said(rows.index, length_logits.softmax(dim=-1)[:, 0])
            if bool(done.any()):
                complete[rows.index] = done
                on = leave(done, step - 1)
                rows, room, hidden, u, length_logits = rows.select(on), room[on], hidden[on], u[on], length_logits[on]
                if not len(on):
                    break
            slots, tokens = self._choose(head, hidden, rows, u[:, 1:], self._most(length_logits, room))
            if trace is not None:
                self._report(trace, hidden, rows, slots, tokens)
            rows = rows.insert(slots, tokens, step, self.tokenizer.pad_token_id)
            room = room - (slots >= 0).sum(dim=1)
        return joined(ended, self.tokenizer.pad_token_id), steps, calls, complete

    def _head(self, temperature: float = 1.0) -> Head:
        weight = self.model.final_layer.linear.weight
        return Head(weight, torch.tensor(self._suppressed(), device=weight.device), temperature)

    def _hidden(self, rows: Rows) -> Float[Tensor, "rows length d_model"]:
        """Hidden vectors of open gaps and CLS."""
        given = {}
        if getattr(self.model, "chooses", False):
            gaps = rows.is_open.reshape(-1).nonzero().squeeze(-1)
            # With nearly all gaps open, picking them costs more than the others.
            if len(gaps) + len(rows.index) < _MOST_CHOSEN * rows.is_open.numel():
                given["chosen"] = self.model.read_at(gaps, rows.cls_position, rows.ids.shape[1])
        hidden: Tensor = self.model.hidden(rows.ids, rows.mask, rows.types, **given)
        return hidden

    def _report(self, trace: Recorder, hidden: Tensor, rows: Rows, slots: Tensor, tokens: Tensor) -> None:
        """Tell the recorder what is about to be inserted: gaps, tokens, and their probabilities at temperature 1."""
        hidden, head = self.model.final_layer.norm_final(hidden), self._head()
        shares = head.slot_logits(hidden, rows.is_open).softmax(dim=-1)
        places = rows.mask.long().cumsum(dim=1) - 1
        for n, row in enumerate(rows.index.tolist()):
            own = slots[n][slots[n] >= 0]
            logits = head.logits(hidden[n, own])
            trace.inserted(row, places[n, own].tolist(), shares[n, own].tolist(), tokens[n][slots[n] >= 0], logits)

    def _is_complete(self, length_logits: Float[Tensor, "rows classes"], u: Tensor) -> Bool[Tensor, " rows"]:
        """Whether each row ends here, by what CLS says of class 0."""
        p = length_logits.to(sampling_dtype(length_logits.device)).softmax(dim=-1)[:, 0]
        return u < p if self.stopping_threshold is None else p >= self.stopping_threshold

    @staticmethod
    def _most(length_logits: Tensor, room: Tensor) -> Integer[Tensor, " rows"]:
        """Most tokens for one step of each row: those that it has room for, and those that CLS says are missing."""
        if length_logits.shape[1] == 2:
            return room
        return torch.minimum(room, length_logits[:, 1:].argmax(dim=-1) + 1)

    def _choose(
        self, head: Head, hidden: Tensor, rows: Rows, u: Tensor, most: Tensor
    ) -> tuple[Integer[Tensor, "rows num"], Integer[Tensor, "rows num"]]:
        """Gaps and their tokens, (R, parallel_slots); −1 for no insertion."""
        hidden = self.model.final_layer.norm_final(hidden)
        unfiltered = self.sampler == LogitsSampler()
        if self.sampling == "joint" and not unfiltered:
            slot, token = choose_pair(self.sampler, head, hidden, rows.is_open, u[:, 0])
            return slot[:, None], token[:, None]
        k = self.parallel_slots
        slot_logits = head.slot_logits(hidden, rows.is_open)
        if k == 1:  # every row that goes on has room and an open gap
            slots = choose(self.slot_sampler, slot_logits, u[:, 0])[:, None]
        else:
            slots = choose_slots(self.slot_sampler, slot_logits, u[:, :k], most, self.parallel_min_prob)
        # The head runs on the chosen gaps only.
        chosen = hidden[torch.arange(len(slots), device=slots.device)[:, None], slots.clamp(min=0)]
        tokens = choose(self.sampler, head.logits(chosen.flatten(0, 1)), u[:, k:].flatten())
        return slots, tokens.view(slots.shape)

    def _suppressed(self) -> tuple[int, ...]:
        num_logits = self.model.final_layer.linear.out_features
        return (*suppressed_ids(self.tokenizer, self.suppressed_tokens, num_logits), self.tokenizer.eos_token_id)

    def to_dict(self, batch: ILMPredictionBatch, preds: ILMPredictionDict) -> list[dict[str, Any]]:
        """Rows of prompt, prediction, truth (where the batch has it), counts, and the step of each token."""

        def decode(ids: Any) -> list[str]:
            return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

        starts = preds["output_start_idx"].tolist()
        answers = [row[start:].tolist() for row, start in zip(preds["ids"], starts, strict=True)]
        orders = [row[start:].tolist() for row, start in zip(preds["insertion_order"], starts, strict=True)]
        columns = {
            "prompt": _shown_prompts(batch, self.tokenizer),
            "prediction": decode(answers),
            "steps_taken": preds["steps_taken"].tolist(),
            "network_calls": preds["network_calls"].tolist(),
            "insertion_order": [[step for step in row if step >= 0] for row in orders],
            "writing": [writing(*row, self.tokenizer, gap="") for row in zip(answers, orders, strict=True)],
        }
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        truth = batch.get("target_ids")
        if truth is not None:
            for row, text in zip(rows, decode(truth.tolist()), strict=True):
                row["truth"] = text
        return rows

    def generate(self, prompts: list[str], seeds: Sequence[int] | None = None) -> list[str]:
        """Answers to prompts, without special tokens; one with mask tokens is filled in there and given back whole.

        Args:
            prompts: of any lengths; an empty one asks for a sample from nothing. A run of masks is one slot for any
                number of tokens, so "begin [MASK]" continues a text for a model trained on text alone.
            seeds: one per prompt, from which its draws follow; None: from `seed` and the prompt's number.
        """
        examples = prompt_examples(prompts, self.tokenizer, self.seed, seeds)
        collators = {False: ILMSeq2SeqPredCollator(self.tokenizer), True: ILMInfillCollator(self.tokenizer)}
        has_masks = [self.tokenizer.mask_token_id in example["prompt_ids"] for example in examples]
        return answers(self, examples, collators, has_masks)

    def continue_text(self, prompts: list[str]) -> list[str]:
        """What follows the beginnings of texts, for a model that learnt whole texts: only the last gap is open.

        ConfigError for a prompt that is as long as `max_length`, which counts it.
        """
        examples = prompt_examples(prompts, self.tokenizer, self.seed)
        if not examples:
            return []
        lengths = [len(example["prompt_ids"]) for example in examples]
        longest = max(lengths)
        if longest >= self.max_length:
            raise ConfigError(f"A prompt of {longest} tokens leaves no room within max_length, {self.max_length}.")
        for example in examples:
            example["prompt_ids"] = [*example["prompt_ids"], self.tokenizer.mask_token_id]
        collated = ILMInfillCollator(self.tokenizer)(examples)
        device = device_of(self)
        batch: Any = {name: value.to(device) for name, value in collated.items()}  # type: ignore[attr-defined]
        preds = self.predict(batch)
        starts = preds["output_start_idx"].tolist()
        return [
            str(self.tokenizer.decode(row[start + length :].tolist(), skip_special_tokens=True))
            for row, start, length in zip(preds["ids"], starts, lengths, strict=True)
        ]


def _shown_prompts(batch: ILMPredictionBatch, tokenizer: Any) -> list[str]:
    """The given tokens of each row as text, with a mask at each gap between or beside them that is open."""
    hidden = set(tokenizer.all_special_ids)
    texts = []
    for row in range(len(batch["input_ids"])):
        ids, types = batch["input_ids"][row].tolist(), batch["token_type_ids"][row].tolist()
        is_open = (batch["attention_mask"][row].bool() & ~batch["constraint"][row].bool()).tolist()
        has_text = any(kind == REST_TYPE and token not in hidden for token, kind in zip(ids, types, strict=True))
        shown: list[int] = []
        for token, may_grow in zip(ids, is_open, strict=True):
            shown += [] if token in hidden else [token]
            shown += [tokenizer.mask_token_id] if may_grow and has_text else []
        texts.append(tokenizer.decode(shown))
    return texts

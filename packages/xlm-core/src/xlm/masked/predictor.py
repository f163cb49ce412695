"""The predictor that masked families share: options, prompts as masks to fill, answers cut at EOS, rows for a file."""

# The annotations of options are types, not text: a subclass elsewhere has its options checked against them, too.

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.counter_rng import prompt_seeds, row_seeds
from xlm.decoding.options import say_unread, suppressed_ids, unread_filters
from xlm.decoding.prompts import answers, device_of, prompt_examples
from xlm.decoding.trace import begin_trace, recording, writing
from xlm.errors import ConfigError
from xlm.masked.cached_calls import Cache, CachedCalls
from xlm.masked.collate import MaskedPredictionBatch, MasksAfterPrompt, MasksInPlace
from xlm.masked.text_length import FILLED, TextLength, with_drawn_lengths
from xlm.masked.unmasking import Filled, MaskedNetwork, Slots, TokenDraw
from xlm.modules.chosen import Chosen, features_at
from xlm.protocols import Predictor, Tokenizer
from xlm.sampling import LogitsSampler
from xlm.utils.annotations import AnySeed, Count, NonNegative, Probability, Share
from xlm.utils.instantiate import check_arguments
from xlm.utils.text import remove_trailing_pads

# A place that waits for its token, where the writing of a text is shown.
MASKED = "▁"


class MaskedPredictionDict(TypedDict):
    """`ids[:, output_start_idx:]` are answers with their EOS, then pads.

    `order`: the row's own network call (from 0) that filled a position, -1 where nothing was filled.
    """

    ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    text: list[str]
    output_start_idx: int
    steps_taken: Integer[Tensor, " batch"]
    network_calls: Integer[Tensor, " batch"]
    order: Integer[Tensor, "batch length"]


@dataclass(eq=False, repr=False)
class MaskedPredictor(Predictor[MaskedPredictionBatch, MaskedPredictionDict]):
    """Fills every mask of a batch; given tokens never change. A family says in which order, in `fill`.

    Its own options are further fields of a dataclass that extends this one.

    Args:
        tokenizer, noise_schedule, model: filled by the harness.
        temperature: of the softmax; 0 is greedy.
        top_k, top_p, min_p: filters on the logits; None for none.
        suppressed_tokens: tokens never to produce, besides mask, pad, BOS, CLS and SEP.
        decode_block: fill the text in blocks of so many tokens, from left to right, each by the family's own order
            (semi-autoregressive; LLaDA, arXiv 2502.09992). None: the whole text at once.
        cache: "dual": between the calls for a block, keys and values of all other tokens are kept from the first of
            them, which computes less and is no longer exact (Fast-dLLM, arXiv 2505.22618); "prefix": of the tokens
            before it only. Needs `decode_block`.
        refresh_interval: with a cache, one in so many calls for a block computes the whole text; 1 is exact. None: the
            first only.
        block_size: BOS and masks after a prompt, for `generate`; in a batch the masks say it themselves.
        text_length: as in training. With "modelled", each block of masks is cut to a length drawn from the network's
            length model; with "learnt", the block behind a text with masks is filled with EOS.
        seed: what a row draws follows from the example's own seed and this; without either, from torch's global
            generator.
    """

    tokenizer: Any = None
    noise_schedule: Any = None
    model: Any = None
    _: KW_ONLY
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: Share | None = None
    min_p: Probability | None = None
    suppressed_tokens: Sequence[str] = ()
    decode_block: Count | None = None
    cache: Cache = "none"
    refresh_interval: Count | None = None
    block_size: Count | None = None
    text_length: TextLength = "given"
    seed: AnySeed | None = None

    def __post_init__(self) -> None:
        # Not type(self): a subclass with an `__init__` of its own passes on what it likes.
        cls = next(base for base in type(self).__mro__ if "__dataclass_fields__" in vars(base))
        check_arguments(cls, vars(self), "predictor")
        if self.suppressed_tokens and self.tokenizer is not None:
            suppressed_ids(self.tokenizer, self.suppressed_tokens)  # an unknown one is reported before training
        if self.cache != "none" and self.decode_block is None:
            raise ConfigError(
                f"predictor.cache={self.cache} needs predictor.decode_block, the number of tokens that a call computes."
            )
        self.check_options()
        self.logits_sampler = LogitsSampler(self.temperature, self.top_k, self.top_p, self.min_p)
        unread = {"refresh_interval": "cache=none keeps nothing between calls"} if self.cache == "none" else {}
        self.unread = say_unread(
            cls, vars(self), {**unread, **self.unread_options(), **unread_filters(self.logits_sampler)}
        )

    def check_options(self) -> None:
        """ConfigError for options that don't go together."""

    def unread_options(self) -> dict[str, str]:
        """Option → why it has no effect beside the others."""
        return {}

    def fill(
        self,
        network: MaskedNetwork,
        draw: TokenDraw,
        ids: Integer[Tensor, "batch length"],
        slots: Slots,
        seeds: Integer[Tensor, " batch"],
    ) -> Filled:
        """Fill the slots of a batch with tokens that `draw` takes from the network, all by each row's own seed."""
        raise NotImplementedError

    def condition(self, mask_prob: Float[Tensor, " rows"]) -> dict[str, Tensor]:
        """What the network is told besides ids and mask, by name, where tokens are masked with a probability."""
        return {}

    @torch.no_grad()
    def predict(
        self,
        batch: MaskedPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MaskedPredictionDict:
        """Fill the masks of `input_ids` (B, L).

        Returns:
            `ids` (B, L): the rows without masks, pads behind an answer's first EOS. `network_calls` (B,): forward
            passes in which a row took part. `order` (B, L): by which of them a position was filled.
        """
        begin_trace(batch, batch["output_start_idx"], self.tokenizer)
        seeds = row_seeds(len(batch["input_ids"]), self.seed, batch.get("noise_seed"), batch["input_ids"].device)
        return self.predict_rows(batch, seeds)

    def predict_rows(
        self, batch: MaskedPredictionBatch, seeds: Integer[Tensor, " batch"], may_end: bool = True
    ) -> MaskedPredictionDict:
        """Fill the masks of rows with these seeds; `may_end=False` for a block that a text goes on behind."""
        if self.text_length == "modelled" and may_end:
            batch = with_drawn_lengths(batch, self.model, self.tokenizer, seeds)
        mask = batch["attention_mask"].bool()
        slots = slots_of(batch, self.tokenizer.mask_token_id, self.decode_block)
        if not may_end:
            slots = slots._replace(before_given_token=slots.masked)

        def run(ids: Tensor, rows: Tensor, mask_prob: Tensor, chosen: Chosen, **memory: Any) -> Tensor:
            condition = {**self.condition(mask_prob), **memory}
            return features_at(self.model.features, self.model, ids, mask[rows], chosen, **condition)

        network = MaskedNetwork(self._calls(run, slots), self.model.output_layer)
        never = suppressed_ids(self.tokenizer, self.suppressed_tokens, self.model.output_layer.out_features)
        draw = TokenDraw(self.logits_sampler, never, self.tokenizer.eos_token_id)
        return finished(batch, slots, self.fill(network, draw, batch["input_ids"], slots, seeds), self.tokenizer)

    def _calls(self, run: Callable[..., Tensor], slots: Slots) -> Callable[..., Tensor]:
        """The network's features at flat positions, with a cache if one is asked for."""
        if self.cache == "none" or slots.blocks is None:
            return lambda ids, rows, mask_prob, index: run(ids, rows, mask_prob, Chosen.of(index, ids.shape[1]))
        if not getattr(self.model, "caches", False):
            raise ConfigError(
                f"{type(self.model).__name__} can't keep keys and values between calls: use predictor.cache=none."
            )
        return CachedCalls(run, slots.blocks, self.cache, self.refresh_interval, len(self.model.layers))

    def to_dict(self, batch: MaskedPredictionBatch, preds: MaskedPredictionDict) -> list[dict[str, Any]]:
        """Rows of prompt, prediction, truth (where the batch has it), steps and network calls."""
        return as_rows(batch, preds, self.tokenizer)

    def generate(self, prompts: list[str]) -> list[str]:
        """Text for each prompt: its masks filled in place where it has some, else an answer of at most a block.

        Without special tokens. The n-th prompt draws from the stream of (seed, n); without a seed, from torch's global
        generator.
        """
        tokenizer, block_size = self.tokenizer, self.block_size
        examples = prompt_examples(prompts, tokenizer, self.seed)
        # A text that is longer than a block has none to be filled: BOS and EOS go around it.
        most = -1 if block_size is None or self.text_length not in FILLED else block_size - 2
        kinds = [
            "after" if tokenizer.mask_token_id not in (ids := example["prompt_ids"])
            else "in" if len(ids) <= most else "long"
            for example in examples
        ]  # fmt: skip
        collators: dict[str, MasksInPlace | MasksAfterPrompt] = {
            "in": MasksInPlace(tokenizer, block_size, text_length=self.text_length),
            "long": MasksInPlace(tokenizer),
            "after": MasksAfterPrompt(tokenizer, block_size),
        }
        return answers(self, examples, collators, kinds)

    def continue_text(self, prompts: list[str]) -> list[str]:
        """What follows the beginnings of texts, for a model that learnt whole texts: `[BOS] prompt masks`.

        Draws as `generate` does. ConfigError for a prompt that fills the block.
        """
        tokenizer, block_size = self.tokenizer, self.block_size
        rows = [[tokenizer.bos_token_id, *tokenizer(p, add_special_tokens=False)["input_ids"]] for p in prompts]
        if not rows:
            return []
        longest = max(map(len, rows))
        if block_size is None or longest >= block_size:
            raise ConfigError(
                f"A prompt of {longest - 1} tokens leaves no room in a block of {block_size}, BOS included."
            )
        device = device_of(self)
        ids = torch.tensor([row + [tokenizer.mask_token_id] * (block_size - len(row)) for row in rows], device=device)
        batch: MaskedPredictionBatch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids, dtype=torch.bool),
            "output_start_idx": 1,
            "noise_seed": torch.tensor(prompt_seeds(len(ids), self.seed), device=device),
        }
        filled = self.predict(batch)["ids"].tolist()
        return [
            str(tokenizer.decode(answer[len(row) :], skip_special_tokens=True))
            for row, answer in zip(rows, filled, strict=True)
        ]


def slots_of(batch: MaskedPredictionBatch, mask_token_id: int, block: int | None = None) -> Slots:
    """Every mask of a batch is a slot; in blocks of so many tokens."""
    mask = batch["attention_mask"].bool()
    return Slots.of((batch["input_ids"] == mask_token_id) & mask, mask, block)


def finished(batch: MaskedPredictionBatch, slots: Slots, filled: Filled, tokenizer: Tokenizer) -> MaskedPredictionDict:
    """The prediction of a filled batch: whatever was filled behind an answer's first EOS becomes padding."""
    start = batch["output_start_idx"]
    ends = slots.masked & (filled.ids == tokenizer.eos_token_id)
    behind = slots.masked & (ends.long().cumsum(dim=1) - ends.long() > 0)
    behind |= _filling(filled.ids, batch["attention_mask"].bool(), start, tokenizer) & ~slots.masked
    if (trace := recording()) is not None:
        trace.removed(behind)
    ids = filled.ids.masked_fill(behind, tokenizer.pad_token_id)
    texts = tokenizer.batch_decode(ids[:, start:].tolist())
    return {
        "ids": ids,
        "attention_mask": batch["attention_mask"].bool() & ~behind,
        "text": [remove_trailing_pads(text, tokenizer) for text in texts],
        "output_start_idx": start,
        "steps_taken": filled.network_calls,
        "network_calls": filled.network_calls,
        "order": filled.order.masked_fill(behind, -1),
    }


def _filling(ids: Tensor, mask: Tensor, start: int, tokenizer: Tokenizer) -> Tensor:
    """Of the EOS and padding in which a row ends, all but the first: what a block was filled with."""
    is_end = (ids == tokenizer.eos_token_id) | (ids == tokenizer.pad_token_id)
    more = (mask & ~is_end).flip(1).long().cumsum(dim=1).flip(1)  # other tokens from here on
    trailing = mask & is_end & (more == 0)
    trailing[:, :start] = False
    return trailing & (trailing.long().cumsum(dim=1) > 1)


def as_rows(batch: MaskedPredictionBatch, preds: MaskedPredictionDict, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """JSON-able rows of prompt, prediction, steps taken, network calls, the order of writing, and truth if any."""
    start = preds["output_start_idx"]

    def decode(rows: Tensor) -> list[str]:
        return tokenizer.batch_decode(rows.tolist(), skip_special_tokens=True)

    # A prompt with slots in it is shown whole, as it was given.
    in_place = start == 1 and bool((batch["input_ids"][:, 1:] != tokenizer.mask_token_id).any())
    prompts = _with_masks(batch, tokenizer) if in_place else decode(batch["input_ids"][:, :start])
    predictions = decode(preds["ids"][:, start:])
    calls = preds["network_calls"].tolist()
    answers, orders = preds["ids"][:, start:].tolist(), preds["order"][:, start:].tolist()
    rows: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "prediction": prediction,
            "steps_taken": n,
            "network_calls": n,
            "writing": writing(ids, order, tokenizer, gap=MASKED),
        }
        for prompt, prediction, n, ids, order in zip(prompts, predictions, calls, answers, orders, strict=True)
    ]
    truth = batch.get("target_ids")
    if truth is not None:
        for row, text in zip(rows, decode(truth), strict=True):
            row["truth"] = text
    return rows


def _with_masks(batch: MaskedPredictionBatch, tokenizer: Tokenizer) -> list[str]:
    """The given rows between BOS and EOS, as text that shows the masks."""
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    shown = mask & ~_filling(ids, mask, 1, tokenizer)
    return [tokenizer.decode(row[keep][1:-1].tolist()) for row, keep in zip(ids, shown, strict=True)]

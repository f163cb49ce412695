"""Batches of masked models: what is given and what may be masked, what was masked, blocks of masks to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.data.collate import (
    IGNORE,
    Limit,
    Padded,
    PadTo,
    Truncate,
    beside,
    limits,
    noise_seeds,
    pad_ids,
    pad_prompt_and_answer,
    room,
    seed_and_truth,
    seq2seq_limits,
    time_quantiles,
    width,
)
from xlm.data.tokenizers import check_mask_token
from xlm.decoding.counter_rng import Stream, uniform
from xlm.errors import ConfigError
from xlm.masked.text_length import FILLED, TextLength, counted, of_collator
from xlm.modules.attention import positions_from_mask
from xlm.protocols import BaseCollatorInput, Collator, Seq2SeqCollator, Seq2SeqCollatorInput, Tokenizer


class CleanRows(NamedTuple):
    """Rows before masking.

    Args:
        maskable: positions that are noised.
        num_tokens: real tokens among them, EOS included: what a loss per token divides by. The filling of a block is
            learnt, but doesn't count.
        text_length: how the length of the text is known.
    """

    ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    maskable: Bool[Tensor, "batch length"]
    num_tokens: Integer[Tensor, " batch"]
    text_length: TextLength = "learnt"


class MaskedBatch(TypedDict):
    """What the loss of a masked model reads: rows with masks, and the tokens under them."""

    # Some tokens replaced by the mask.
    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # The token under each mask; -100 elsewhere.
    target_ids: Integer[Tensor, "batch length"]
    # Where target_ids is not -100, as indices into the flattened (B·L) positions.
    target_index: NotRequired[Integer[Tensor, " masks"]]
    # Real tokens in the flattened (B·L) positions, for batches whose padding is not computed.
    token_index: NotRequired[Integer[Tensor, " tokens"]]
    # What could have been masked.
    maskable: Bool[Tensor, "batch length"]
    # From which follows with which probability a maskable token of the row was masked.
    t: Float[Tensor, " batch"]
    # Real tokens among the maskable ones: filling behind an answer is learnt, but not counted.
    num_tokens: Integer[Tensor, " batch"]
    # Each example's own random stream.
    noise_seed: Integer[Tensor, " batch"]
    # How the length of a text is known; "learnt" where it isn't said.
    text_length: NotRequired[TextLength]


class MaskedLossDict(TypedDict):
    """What the loss returns."""

    loss: Float[Tensor, ""]
    num_loss_terms: int | Tensor


class MaskedPredictionBatch(TypedDict):
    """What a predictor of masked models reads: rows with masks where tokens are wanted."""

    input_ids: Integer[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    # Column at which the answer starts; everything before it is the prompt.
    output_start_idx: int
    # True answer and EOS, right-padded with the pad token.
    target_ids: NotRequired[Integer[Tensor, "batch answer"]]
    # Each example's own random stream.
    noise_seed: NotRequired[Integer[Tensor, " batch"]]


def pad_texts(
    rows: Sequence[Sequence[int]],
    text_length: TextLength,
    block_size: int | None,
    truncate: Truncate,
    pad_to: PadTo,
    tokenizer: Tokenizer,
    name: str = "answer",
) -> Padded:
    """The rows padded on the right, or where `text_length` asks for it filled to block_size; longer ones are cut.

    Raises:
        ConfigError: there is no block to fill.
        DataError: a row is longer than the block, and `truncate` is "error".
    """
    if text_length not in FILLED:
        length = width(rows, block_size, pad_to)
        return pad_ids(rows, tokenizer.pad_token_id, length=length, truncate=truncate, name=name)
    if block_size is None:
        raise ConfigError(
            f"text_length={text_length} needs block_size: filling rows to the longest of a batch would make an "
            "example's loss depend on its neighbours."
        )
    filler = tokenizer.eos_token_id if text_length == "learnt" else tokenizer.pad_token_id
    ids = pad_ids(rows, filler, length=block_size, truncate=truncate, name=name).ids
    return Padded(ids, torch.ones_like(ids, dtype=torch.bool))


def filled(
    rows: Sequence[list[int]],
    text_length: TextLength,
    block_size: int | None,
    truncate: Truncate,
    tokenizer: Tokenizer,
    name: str = "answer",
) -> list[list[int]]:
    """`pad_texts` as lists, for collators of other packages; without padding where nothing is filled."""
    if text_length not in FILLED:
        return list(rows)
    return pad_texts(rows, text_length, block_size, truncate, "block", tokenizer, name).ids.tolist()


def answer_rows(
    examples: Sequence[Any],
    tokenizer: Tokenizer,
    *,
    with_prompt: bool,
    block_size: int | None,
    input_block_size: int | None = None,
    text_length: TextLength = "given",
    prompt_truncate: Truncate = "error",
    answer_truncate: Truncate = "error",
    pad_to: PadTo = "longest",
) -> CleanRows:
    """`[pads] prompt [BOS] answer [EOS] [rest]`, all after BOS maskable; without prompts the rows start at BOS.

    The rest of the block is EOS with `text_length` "learnt", padding that the network sees with "lm1b_protocol" (where
    BOS is maskable too), and otherwise padding that it doesn't see.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    answers = [[bos, *example["input_ids"], eos] for example in examples]
    padded = pad_texts(answers, text_length, block_size, answer_truncate, pad_to, tokenizer)
    start = 0
    if with_prompt:
        prompts = [example["prompt_ids"] for example in examples]
        length = width(prompts, input_block_size, pad_to)
        left = pad_ids(
            prompts, tokenizer.pad_token_id, length=length, side="left", truncate=prompt_truncate, name="prompt"
        )
        padded, start = beside(left, padded)
    maskable = padded.mask.numpy().copy()
    maskable[:, :start] = False
    lengths = np.array(list(map(len, answers)), dtype=np.int64)
    columns = maskable.shape[1] - start
    if text_length != "lm1b_protocol":
        # BOS is given; where it was cut off (truncation on the left), the first token stands in its column.
        is_bos = padded.ids.numpy()[:, start : start + 1] == bos
        maskable[:, start : start + 1] &= ~is_bos
        lengths, columns = lengths - 1, columns - is_bos.sum(axis=1)
    num_tokens = torch.from_numpy(np.minimum(lengths, columns))
    return CleanRows(padded.ids, padded.mask, torch.from_numpy(maskable), num_tokens, text_length)


class Masked(NamedTuple):
    """Rows of which some tokens are masked.

    `targets` holds the token under each mask, -100 elsewhere; `target_index` says where in the flat (B·L) rows.
    """

    ids: Integer[Tensor, "batch length"]
    targets: Integer[Tensor, "batch length"]
    target_index: Integer[Tensor, " masks"]


def draw_times(
    seeds: Integer[Tensor, " batch"], quantiles: Float[Tensor, " batch"] | None = None, t_min: float = 0.0
) -> Float[Tensor, " batch"]:
    """A time per row, uniform in (t_min, 1), float64: at its quantile where quantiles are given, else from its seed.

    Times of independent seeds are independent; the quantiles that loaders hand out are spread evenly over any stretch
    of an epoch, which lowers the variance of a batch's loss (arXiv 2107.00630, appendix I.1).
    """
    u = uniform(seeds, Stream.TIME) if quantiles is None else quantiles
    return t_min + (1 - t_min) * u


def mask_tokens(
    ids: Integer[Tensor, "batch length"],
    maskable: Bool[Tensor, "batch length"],
    mask_prob: Float[Tensor, " batch"],
    seeds: Integer[Tensor, " batch"],
    mask_token_id: int,
    attention_mask: Bool[Tensor, "batch length"] | None = None,
) -> Masked:
    """Mask each maskable token of row b with probability mask_prob[b]; padding before a token changes no draw."""
    real = torch.ones_like(maskable) if attention_mask is None else attention_mask | maskable
    # Without padding before a token, a token's number among them is its column.
    is_padded = bool((real[:, 1:] & ~real[:, :-1]).any())
    numbers = positions_from_mask(real) if is_padded else torch.arange(real.shape[1], device=real.device)
    masked = maskable & (uniform(seeds[:, None], Stream.MASK, numbers) < mask_prob[:, None])
    # By index: a mask that is True here and there costs torch's nonzero and masked_fill several times as much.
    index = torch.from_numpy(np.flatnonzero(masked.cpu().numpy())).to(ids.device)
    flat = ids.reshape(-1)
    targets = torch.full_like(flat, IGNORE).scatter_(0, index, flat.gather(0, index))
    return Masked(flat.index_fill(0, index, mask_token_id).view_as(ids), targets.view_as(ids), index)


def masked_batch(
    rows: CleanRows,
    t: Float[Tensor, " batch"],
    mask_prob: Float[Tensor, " batch"],
    seeds: Integer[Tensor, " batch"],
    mask_token_id: int,
) -> MaskedBatch:
    """The batch in which each maskable token of row b is masked with probability mask_prob[b], that of time t[b]."""
    masked = mask_tokens(rows.ids, rows.maskable, mask_prob, seeds, mask_token_id, rows.attention_mask)
    targets, index = masked.targets, masked.target_index
    if rows.text_length == "lm1b_protocol":
        targets = targets.masked_fill(~counted(rows.maskable, rows.num_tokens), IGNORE)
        index = index[targets.reshape(-1)[index] != IGNORE]
    return {
        "input_ids": masked.ids,
        "attention_mask": rows.attention_mask,
        "target_ids": targets,
        # Found here, on the CPU and in a worker: on a GPU it would make every step wait.
        "target_index": index,
        "maskable": rows.maskable,
        "t": t.float(),
        "num_tokens": rows.num_tokens,
        "noise_seed": seeds,
        "text_length": rows.text_length,
    }


class MasksRows:
    """What the two training collators share: times from the examples, masks from their seeds."""

    tokenizer: Tokenizer
    low_variance: bool
    t_min: float
    text_length: TextLength | None
    loss_on_padding: bool | None

    @property
    def fills_block(self) -> bool:
        """Whether every text or answer is filled to the block, so that there are no lengths to sort by."""
        return of_collator(self.text_length, self.loss_on_padding) in FILLED

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def rows(self, examples: Sequence[Any]) -> CleanRows:
        """The rows before masking."""
        raise NotImplementedError

    def corrupt(self, rows: CleanRows, t: Float[Tensor, " batch"], seeds: Integer[Tensor, " batch"]) -> MaskedBatch:
        """The batch at times t. Here t itself is the probability to be masked; a family may override this."""
        return masked_batch(rows, t, t, seeds, self.tokenizer.mask_token_id)

    def __call__(self, examples: Sequence[Any]) -> Any:
        rows = self.rows(examples)
        seeds = noise_seeds(examples)
        quantiles = time_quantiles(examples) if self.low_variance else None
        return self.corrupt(rows, draw_times(seeds, quantiles, self.t_min), seeds)


@dataclass
class MaskedCollator(MasksRows, Collator):
    """`[BOS] sequence [EOS] [rest of the block]`; everything after BOS may be masked.

    Args:
        tokenizer: gives BOS, EOS, the mask and the pad id.
        block_size: most tokens of a row, BOS and EOS included; None for no limit.
        noise_schedule: for families whose probability to be masked is not t itself.
        input_block_size: part of every collator's arguments, unused here.
        text_length: how the length of a text is known: "learnt" (None), "modelled", "given" or "lm1b_protocol"; see
            `xlm.masked.text_length`.
        low_variance: t from the example's `time_quantile`, evenly spread over an epoch, where it has one; else its
            seed.
        t_min: smallest t.
        truncate: what a longer row loses ("right": its end, with EOS), or "error".
        pad_to: "longest" row of the batch, or always "block" (static shapes, for `compile=true`).
        loss_on_padding: the older name, instead of text_length: true is "learnt", false is "given".
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    noise_schedule: Any = None
    input_block_size: int | None = None
    text_length: TextLength | None = None
    low_variance: bool = True
    t_min: float = 0.0
    truncate: Truncate = "right"
    pad_to: PadTo = "longest"
    loss_on_padding: bool | None = None

    def token_limits(self) -> dict[str, Limit]:
        return limits(text=room(self.block_size, 2), truncate=self.truncate)

    def rows(self, examples: Sequence[BaseCollatorInput]) -> CleanRows:
        return answer_rows(
            examples,
            self.tokenizer,
            with_prompt=False,
            block_size=self.block_size,
            text_length=of_collator(self.text_length, self.loss_on_padding),
            answer_truncate=self.truncate,
            pad_to=self.pad_to,
        )


@dataclass
class MaskedSeq2SeqCollator(MasksRows, Seq2SeqCollator):
    """`[pads] prompt [BOS] answer [EOS]`, filled with EOS to the block; all after BOS may be masked.

    Args:
        block_size: columns from BOS on.
        input_block_size: most tokens of the prompt.
        text_length: as for `MaskedCollator`. Prediction starts from a block of masks, so an answer's end has to be
            learnt or its length drawn.
        prompt_truncate, answer_truncate: what a longer one loses, or "error".
        pad_to: "longest" prompt of the batch, or always "block" (static shapes, for `compile=true`).
        tokenizer, noise_schedule, low_variance, t_min, loss_on_padding: as for `MaskedCollator`.
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    text_length: TextLength | None = None
    low_variance: bool = True
    t_min: float = 0.0
    prompt_truncate: Truncate = "error"
    answer_truncate: Truncate = "error"
    pad_to: PadTo = "longest"
    loss_on_padding: bool | None = None

    def token_limits(self) -> dict[str, Limit]:
        return seq2seq_limits(self)

    def rows(self, examples: Sequence[Seq2SeqCollatorInput]) -> CleanRows:
        return answer_rows(
            examples,
            self.tokenizer,
            with_prompt=True,
            block_size=self.block_size,
            input_block_size=self.input_block_size,
            text_length=of_collator(self.text_length, self.loss_on_padding),
            prompt_truncate=self.prompt_truncate,
            answer_truncate=self.answer_truncate,
            pad_to=self.pad_to,
        )


def _prediction_batch(
    ids: Tensor, mask: Tensor, start: int, examples: Sequence[Any], tokenizer: Tokenizer
) -> MaskedPredictionBatch:
    batch: Any = {"input_ids": ids, "attention_mask": mask, "output_start_idx": start}
    found: MaskedPredictionBatch = batch | seed_and_truth(examples, tokenizer)
    return found


@dataclass
class MasksAfterPrompt:
    """`[pads] prompt [BOS] masks`: the whole block is masked, since nobody knows the answer's length.

    Without prompts (unconditional) the rows are BOS and masks. The true answer, if any, goes to `target_ids` alone.

    Args:
        tokenizer: gives BOS, EOS, the mask and the pad id.
        block_size: BOS and masks together, as in training.
        input_block_size: most tokens of the prompt.
        noise_schedule: part of every collator's arguments, unused here.
        prompt_truncate: what a longer prompt loses, or "error".
        pad_to: "longest" prompt of the batch, or always "block".
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    prompt_truncate: Truncate = "error"
    pad_to: PadTo = "longest"

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=self.input_block_size, prompt_truncate=self.prompt_truncate)

    def __call__(self, examples: Sequence[Any]) -> MaskedPredictionBatch:
        if self.block_size is None or self.block_size < 2:
            raise ConfigError(f"block_size is {self.block_size}; it must hold BOS and at least one mask.")
        prompts = [example.get("prompt_ids") or [] for example in examples]
        masks = [self.tokenizer.mask_token_id] * (self.block_size - 1)
        padded, start = pad_prompt_and_answer(
            prompts,
            [[self.tokenizer.bos_token_id, *masks] for _ in examples],
            self.tokenizer.pad_token_id,
            prompt_length=width(prompts, self.input_block_size, self.pad_to),
            prompt_truncate=self.prompt_truncate,
        )
        return _prediction_batch(padded.ids, padded.mask, start + 1, examples, self.tokenizer)


@dataclass
class MasksInPlace:
    """`[BOS] text with masks [EOS] [rest]`: each mask is a slot for one token (infilling at known length).

    The text is the example's `prompt_ids`; its `input_ids`, if any, is the truth without masks.

    Args:
        tokenizer: gives BOS, EOS and the pad id.
        block_size: most tokens of a row, BOS and EOS included; None for no limit.
        noise_schedule, input_block_size: part of every collator's arguments, unused here.
        truncate: what a longer row loses, or "error".
        pad_to: "longest" row of the batch, or always "block".
        text_length: as in training. The rest of the block is EOS with "learnt", padding that the network sees with
            "lm1b_protocol", else padding that it doesn't see.
    """

    tokenizer: Tokenizer
    block_size: int | None = None
    input_block_size: int | None = None
    noise_schedule: Any = None
    truncate: Truncate = "error"
    pad_to: PadTo = "longest"
    text_length: TextLength = "given"

    def __post_init__(self) -> None:
        check_mask_token(self.tokenizer)

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=room(self.block_size, 2), prompt_truncate=self.truncate, setting="block_size")

    def __call__(self, examples: Sequence[Any]) -> MaskedPredictionBatch:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        texts = [[bos, *example["prompt_ids"], eos] for example in examples]
        padded = pad_texts(texts, self.text_length, self.block_size, self.truncate, self.pad_to, self.tokenizer, "text")
        return _prediction_batch(padded.ids, padded.mask, 1, examples, self.tokenizer)

"""How a masked model knows how long a text is, and what its likelihood is called for that reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.decoding.counter_rng import Stream, uniform
from xlm.decoding.trace import recording
from xlm.errors import ConfigError
from xlm.modules.length_model import LengthModel

TextLength = Literal["learnt", "modelled", "given", "lm1b_protocol"]
"""
- "learnt": the block behind a text is filled with EOS, which is learnt and paid for as any token, but not counted.
- "modelled": the network sees the text alone; log p(N) comes from a `LengthModel`, from which the sampler draws, too.
- "given": the network sees the text alone, and nothing pays for its length: no likelihood of the text.
- "lm1b_protocol": the protocol behind the published numbers of MDLM on LM1B (arXiv 2406.07524, table 1). BOS is noised
  and counted like any token. Padding is noised and seen by the network, but costs nothing: no likelihood of the text.
"""

# Where the network sees the whole block, whatever the length of the text in it.
FILLED: tuple[TextLength, ...] = ("learnt", "lm1b_protocol")
# Name of the likelihood, and what to add to its description.
_NAMES: dict[TextLength, tuple[str, str]] = {
    "learnt": ("nll", ""),
    "modelled": ("nll", ", the length drawn from the length model first"),
    "given": ("nll_given_length", ", given the length of each text, which is no likelihood of the text"),
    "lm1b_protocol": (
        "nll_lm1b_protocol",
        ", by MDLM's protocol for LM1B: the network sees the padding at no cost, so this is no likelihood of the text",
    ),
}


def checked(text_length: str) -> TextLength:
    """A value of `text_length`; ConfigError for any other."""
    if text_length not in get_args(TextLength):
        raise ConfigError(
            f"text_length is {text_length!r}. Choices: {', '.join(get_args(TextLength))}.", key="text_length"
        )
    return text_length  # type: ignore[return-value]


def of_collator(text_length: str | None, loss_on_padding: bool | None) -> TextLength:
    """A collator's `text_length`, "learnt" by default; its older option means "learnt" (true) or "given" (false).

    ConfigError where both are set and disagree: the predictor would read one and the collator the other.
    """
    if loss_on_padding is None:
        return checked("learnt" if text_length is None else text_length)
    older: TextLength = "learnt" if loss_on_padding else "given"
    if text_length is not None and checked(text_length) != older:
        raise ConfigError(
            f"loss_on_padding={str(loss_on_padding).lower()} is the older name of text_length={older}, and text_length "
            f"is {text_length}: set text_length={older}, which collators, loss and predictor read.",
            key="loss_on_padding",
        )
    return older


def of_batch(batch: Mapping[str, Any]) -> TextLength:
    """How the texts of a training batch were collated; "learnt" where it doesn't say."""
    found: TextLength = batch.get("text_length", "learnt")
    return found


def counted(
    maskable: Bool[Tensor, "batch length"], num_tokens: Integer[Tensor, " batch"]
) -> Bool[Tensor, "batch length"]:
    """The real tokens among the maskable ones: the first `num_tokens` of each row, without what fills its block."""
    return maskable & (maskable.cumsum(dim=1) <= num_tokens[:, None])


def free(batch: Mapping[str, Any]) -> Bool[Tensor, "batch length"] | None:
    """Maskable positions of a batch that cost nothing: padding, with "lm1b_protocol"; None for none."""
    if of_batch(batch) != "lm1b_protocol":
        return None
    return batch["maskable"] & ~counted(batch["maskable"], batch["num_tokens"])


def pays_for_length(batch: Mapping[str, Any]) -> bool:
    """Whether the likelihood of a batch's texts includes that of their lengths."""
    return of_batch(batch) in ("learnt", "modelled")


def likelihood_of(batch: Mapping[str, Any], sampler: str) -> tuple[str, str]:
    """Name and owner of the likelihood of a batch, as `xlm.evaluation.likelihood.DescribedLoss` gives them."""
    name, more = _NAMES[of_batch(batch)]
    return name, sampler + more


def length_model_of(network: Any) -> LengthModel:
    """The network's length model; ConfigError if it has none."""
    found = getattr(network, "length_model", None)
    if not isinstance(found, LengthModel):
        raise ConfigError(
            f"text_length=modelled needs a network with a length model, and {type(network).__name__} has none: "
            "set model.num_text_lengths to block_size.",
            key="model.num_text_lengths",
        )
    return found


def length_nll(network: Any, batch: Mapping[str, Any], learn: bool = False) -> Float[Tensor, " batch"] | None:
    """−log p(N) of each row in nats where lengths are modelled, else None; with `learn` they are counted first."""
    if of_batch(batch) != "modelled":
        return None
    model, lengths = length_model_of(network), batch["maskable"].sum(dim=1)
    # On a device reading the lengths would make every step wait, and a graph would break here; there a text that is too
    # long is an error of its index.
    is_read = lengths.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_read and bool((lengths > len(model.counts)).any()):
        raise ConfigError(
            f"A text has {int(lengths.max())} tokens with its end, and the length model knows lengths up to "
            f"{len(model.counts)}: set model.num_text_lengths to block_size.",
            key="model.num_text_lengths",
        )
    if learn:
        model.count(lengths)
    return model.nll(lengths)


def with_drawn_lengths(batch: Any, network: Any, tokenizer: Any, seeds: Integer[Tensor, " batch"]) -> Any:
    """A prediction batch whose answers that end in masks are cut to lengths drawn from the network's length model.

    What is given of an answer stays and is its beginning: N is drawn from p(N | N > number of given tokens). Rows that
    end in a given token, such as texts with masks inside, keep their length.
    """
    start = batch["output_start_idx"]
    ids, mask = batch["input_ids"][:, start:], batch["attention_mask"][:, start:].bool()
    is_masked = ids == tokenizer.mask_token_id
    model, width = length_model_of(network), ids.shape[1]
    columns = torch.arange(width, device=ids.device)
    given = torch.where(~is_masked & mask, columns + 1, 0).amax(dim=1)
    most = torch.full_like(given, min(width, len(model.counts)))
    lengths = model.draw(uniform(seeds, Stream.LENGTH), torch.minimum(given + 1, most), most)
    behind = torch.zeros_like(batch["attention_mask"], dtype=torch.bool)
    behind[:, start:] = (is_masked[:, -1] & mask.all(dim=1))[:, None] & (columns >= lengths[:, None])
    if (trace := recording()) is not None:
        trace.removed(behind)
    return {
        **batch,
        "input_ids": batch["input_ids"].masked_fill(behind, tokenizer.pad_token_id),
        "attention_mask": batch["attention_mask"].bool() & ~behind,
    }

"""What a model wrote, right up to the first EOS of each row: tokens, text, and whether the row ended by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from xlm.metrics import IGNORED, rows_from
from xlm.protocols import call_at


@dataclass(frozen=True)
class WrittenText:
    """One text.

    Args:
        text: without special tokens, nothing else changed.
        tokens: as they were written, without special ones; None for a text that comes from a file.
        ended: whether the model ended it (False: it was cut at the greatest length); None where nobody knows.
    """

    text: str
    tokens: tuple[int, ...] | None = None
    ended: bool | None = None


def written_texts(predictions: Mapping[str, Any], tokenizer: Any) -> list[WrittenText]:
    """The texts of a predictor's outputs, one for each row, empty ones included.

    From `ids` behind `output_start_idx` where there are any, else from `text`. A row has ended where it has an EOS, or
    where `complete`, (B,), says so.
    """
    if "ids" not in predictions:
        texts = [cut_text(text, tokenizer) for text in predictions["text"]]
        return [WrittenText(text, tuple(_encode(text, tokenizer))) for text in texts]
    ids, start = torch.as_tensor(predictions["ids"]), predictions.get("output_start_idx")
    rows = ids if start is None else rows_from(ids, start, tokenizer.pad_token_id)
    complete = predictions.get("complete")
    ends = [None] * len(rows) if complete is None else torch.as_tensor(complete).tolist()
    return [_written(row, end, start is None, tokenizer) for row, end in zip(rows.tolist(), ends, strict=True)]


def _written(row: list[int], complete: bool | None, is_whole: bool, tokenizer: Any) -> WrittenText:
    special, eos = {*tokenizer.all_special_ids, IGNORED}, tokenizer.eos_token_id
    if is_whole:
        # Where a row opens with what is both BOS (or padding) and EOS, that is no end.
        is_both = eos in (tokenizer.bos_token_id, tokenizer.pad_token_id)
        opening = special if is_both else special - {eos}
        row = row[next((place for place, token in enumerate(row) if token not in opening), len(row)) :]
    has_end = eos in row
    tokens = tuple(token for token in (row[: row.index(eos)] if has_end else row) if token not in special)
    return WrittenText(decoded(tokens, tokenizer), tokens, has_end if complete is None else complete)


def decoded(tokens: Sequence[int], tokenizer: Any) -> str:
    """The text of tokens, with the blanks that they have."""
    if not getattr(tokenizer, "is_fast", False):
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def cut_text(text: str, tokenizer: Any) -> str:
    """A text up to the first EOS that it spells out, without other special tokens; what opens it is no end."""
    specials = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
    while opening := next((token for token in specials if text.startswith(token)), None):
        if opening == tokenizer.eos_token and opening != tokenizer.bos_token:
            break
        text = text[len(opening) :]
    text = text.partition(tokenizer.eos_token)[0] if tokenizer.eos_token else text
    for token in specials:
        text = text.replace(token, "")
    return text


def _encode(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@contextmanager
def collecting_texts(predictor: Any, tokenizer: Any, loaders: Sequence[str]) -> Iterator[dict[str, list[WrittenText]]]:
    """The texts that `predictor.predict` writes in this block for these loaders, by loader."""
    texts: dict[str, list[WrittenText]] = {name: [] for name in loaders}
    if not loaders or predictor is None:  # whoever predicts says so
        yield texts
        return
    predict, own = predictor.predict, predictor.__dict__.get("predict")

    def watched(batch: Any, batch_idx: Any = None, dataloader_idx: Any = None, dataloader_name: Any = None) -> Any:
        predictions = call_at(predict, batch, batch_idx, dataloader_idx, dataloader_name)
        if dataloader_name in texts:
            texts[dataloader_name] += written_texts(predictions, tokenizer)
        return predictions

    # In the instance's dict, as `counting_calls` does.
    predictor.__dict__["predict"] = watched
    try:
        yield texts
    finally:
        del predictor.__dict__["predict"]
        if own is not None:
            predictor.__dict__["predict"] = own

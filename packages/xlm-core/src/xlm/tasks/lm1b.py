"""One Billion Word Benchmark (`datamodule=lm1b`): its texts without the blanks of their tokenization."""

from __future__ import annotations

from typing import Any

from xlm.tasks.corpora import detokenize, detokenized_to_input_ids

__all__ = ["lm1b_detokenize", "preprocess"]


def lm1b_detokenize(text: str) -> str:
    """The text by the rules that published perplexities on LM1B use."""
    return detokenize(text, "lm1b")


def preprocess(example: dict[str, Any], tokenizer: Any, **options: Any) -> dict[str, Any]:
    """`input_ids` and `num_bytes` of the detokenized `text`."""
    return detokenized_to_input_ids(example, tokenizer, corpus="lm1b", **options)

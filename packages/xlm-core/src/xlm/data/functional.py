"""Preprocessing functions for examples that hold token ids already: `fn(example, tokenizer=…, **kwargs)`."""

from __future__ import annotations

from typing import Any

from xlm.errors import DataError

# The column with the UTF-8 bytes of a text as it was before it became ids: what bits per byte divide by.
NUM_BYTES = "num_bytes"


def token_ids_to_input_ids(
    example: dict[str, Any], tokenizer: Any = None, *, block_size: int | None = None, **_: Any
) -> dict[str, Any]:
    """`token_ids` becomes `input_ids`, at most `block_size` of them when it is given."""
    return {**_without(example, "token_ids"), "input_ids": _first(example, "token_ids", "input_ids")[:block_size]}


def token_ids_to_input_ids_and_prompt_ids(example: dict[str, Any], tokenizer: Any = None, **_: Any) -> dict[str, Any]:
    """`prompt_token_ids` becomes `prompt_ids`; `input_token_ids` (or `token_ids`) becomes `input_ids`."""
    rest = _without(example, "prompt_token_ids", "input_token_ids", "token_ids")
    return {
        **rest,
        "prompt_ids": _first(example, "prompt_token_ids", "prompt_ids"),
        "input_ids": _first(example, "input_token_ids", "token_ids", "input_ids"),
    }


def ids_to_example_fn(example: Any, tokenizer: Any = None, **_: Any) -> dict[str, Any]:
    """A bare list of ids, or a row with a column of them, becomes `{"input_ids": ids}` and nothing else."""
    if isinstance(example, dict):
        example = _first(example, "input_ids", "token_ids", "ids")
    return {"input_ids": list(example)}


def text_to_input_ids(
    example: dict[str, Any],
    tokenizer: Any,
    *,
    text_column: str = "text",
    block_size: int | None = None,
    **_: Any,
) -> dict[str, Any]:
    """`input_ids` of a text without special tokens, at most `block_size` of them when it is given.

    `num_bytes` is the length of the text in UTF-8, which a tokenizer may lose; None where the ids are not all of it.
    """
    text = _first(example, text_column)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    kept = ids[:block_size]
    return {**example, "input_ids": kept, NUM_BYTES: len(text.encode()) if len(kept) == len(ids) else None}


def _without(example: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name not in columns}


def _first(example: dict[str, Any], *columns: str) -> Any:
    for name in columns:
        if name in example:
            return example[name]
    raise DataError(f"An example has none of the columns {', '.join(columns)}; it has: {', '.join(example) or 'none'}.")

"""Checks of prepared examples, made once while they are prepared: ids are whole numbers that the vocabulary has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xlm.errors import DataError
from xlm.utils.text_files import name_of_kind

# Columns of token ids, and what they are called before the functions of `xlm.data.functional` rename them.
_IDS = ("input_ids", "prompt_ids")
_WHOLE = {int}
_EARLIER = ("token_ids", "input_token_ids", "prompt_token_ids")


def vocabulary_size(tokenizer: Any) -> int | None:
    """How many ids a model embeds; None where the tokenizer doesn't say."""
    size = getattr(tokenizer, "full_vocab_size", None)
    if size is None and hasattr(tokenizer, "__len__"):
        size = len(tokenizer)
    return size if isinstance(size, int) else None


def checked_ids(example: Any, vocabulary: int | None) -> dict[str, Any]:
    """The example, its columns of ids as plain lists.

    Raises:
        DataError: it is no object, or a column of ids holds something else than ids of the vocabulary; names it.
    """
    if type(example) is not dict and not isinstance(example, Mapping):
        raise DataError(f"it is {name_of_kind(example)}, not an object with columns.")
    found = dict(example)
    # Once they are renamed, the earlier columns are nobody's ids.
    for column in _IDS if "input_ids" in found else (*_IDS, *_EARLIER):
        if column in found:
            found[column] = _ids(found[column], column, vocabulary)
    return found


def _ids(value: Any, column: str, vocabulary: int | None) -> list[int]:
    is_whole = type(value) is list and set(map(type, value)) == _WHOLE
    if is_whole and min(value) >= 0 and (vocabulary is None or max(value) < vocabulary):
        return list(value)  # as it is nearly always
    if hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise DataError(f"column {column!r} holds {name_of_kind(value)}, not a list of ids.")
    kinds = set(map(type, value))
    if kinds - {int}:
        # Numbers of numpy are welcome; a truth value, a fraction or a list inside is none of an id's forms.
        value = [item.item() if hasattr(item, "item") else item for item in value]
        for wrong in (item for item in value if type(item) is not int):
            shown = f"{name_of_kind(wrong)} ({wrong})" if isinstance(wrong, float | bool | str) else name_of_kind(wrong)
            raise DataError(f"column {column!r} holds {shown} among its ids, which must be whole numbers.")
    if value and (min(value) < 0 or (vocabulary is not None and max(value) >= vocabulary)):
        wrong = min(value) if min(value) < 0 else max(value)
        last = "" if vocabulary is None else f" to {vocabulary - 1:,}"
        raise DataError(f"column {column!r} holds the id {wrong}; the tokenizer's ids go from 0{last}.")
    return list(value)

"""Preprocessing functions: texts to token ids, other names for ids, and packing of documents into blocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from xlm.errors import DataError, as_line, did_you_mean, nearest_names
from xlm.utils.text_files import checked_text, name_of_kind

# The column with the number of UTF-8 bytes of the original text, the denominator of bits per byte.
NUM_BYTES = "num_bytes"
_SHOWN = 200  # characters of the names of columns in a message


def token_ids_to_input_ids(
    example: dict[str, Any], tokenizer: Any = None, *, block_size: int | None = None, **_: Any
) -> dict[str, Any]:
    """`token_ids` becomes `input_ids`, at most `block_size` of them when it is given."""
    return {**_without(example, "token_ids"), "input_ids": _ids(example, "token_ids", "input_ids")[:block_size]}


def token_ids_to_input_ids_and_prompt_ids(example: dict[str, Any], tokenizer: Any = None, **_: Any) -> dict[str, Any]:
    """`prompt_token_ids` becomes `prompt_ids`; `input_token_ids` (or `token_ids`) becomes `input_ids`."""
    rest = _without(example, "prompt_token_ids", "input_token_ids", "token_ids")
    return {
        **rest,
        "prompt_ids": _ids(example, "prompt_token_ids", "prompt_ids"),
        "input_ids": _ids(example, "input_token_ids", "token_ids", "input_ids"),
    }


def ids_to_example_fn(example: Any, tokenizer: Any = None, **_: Any) -> dict[str, Any]:
    """A bare list of ids, or a row with a column of ids, becomes `{"input_ids": ids}` without other columns."""
    row = example if isinstance(example, Mapping) else {"ids": example}
    return {"input_ids": list(_ids(row, "input_ids", "token_ids", "ids"))}


def text_to_input_ids(
    example: dict[str, Any],
    tokenizer: Any,
    *,
    text_column: str = "text",
    block_size: int | None = None,
    **_: Any,
) -> dict[str, Any]:
    """`input_ids` of a text without special tokens, at most `block_size` of them when it is given.

    `num_bytes` is the length of the text in UTF-8, which decoding may not restore; None if the ids were cut.
    """
    text = checked_text(_first(example, text_column), text_column)
    return _with_ids(example, text, tokenizer(text, add_special_tokens=False)["input_ids"], block_size)


def _texts_to_input_ids(
    examples: list[dict[str, Any]],
    tokenizer: Any,
    *,
    text_column: str = "text",
    block_size: int | None = None,
    **_: Any,
) -> list[dict[str, Any]]:
    texts = [checked_text(_first(example, text_column), text_column) for example in examples]
    found = zip(examples, texts, ids_of_texts(texts, tokenizer), strict=True)
    return [_with_ids(example, text, ids, block_size) for example, text, ids in found]


def _with_ids(example: dict[str, Any], text: str, ids: list[int], block_size: int | None) -> dict[str, Any]:
    kept = ids[:block_size]
    return {**example, "input_ids": kept, NUM_BYTES: len(text.encode()) if len(kept) == len(ids) else None}


def prompt_and_answer_to_ids(
    example: dict[str, Any],
    tokenizer: Any,
    *,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    **_: Any,
) -> dict[str, Any]:
    """`prompt_ids` and `input_ids` of two columns of text, without special tokens; `num_bytes` of the answer."""
    pair = _pair(example, prompt_column, answer_column)
    return _pairs_to_ids([pair], tokenizer)[0]


def _prompts_and_answers_to_ids(
    examples: list[dict[str, Any]],
    tokenizer: Any,
    *,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    **_: Any,
) -> list[dict[str, Any]]:
    return _pairs_to_ids([_pair(example, prompt_column, answer_column) for example in examples], tokenizer)


def _pair(example: dict[str, Any], prompt_column: str, answer_column: str) -> tuple[str, str]:
    prompt = checked_text(_first(example, prompt_column), prompt_column)
    return prompt, checked_text(_first(example, answer_column), answer_column)


def chat_to_ids(
    example: dict[str, Any], tokenizer: Any, *, messages_column: str = "messages", **_: Any
) -> dict[str, Any]:
    """`prompt_ids` and `input_ids` of a conversation: the last message is the answer, those before it the prompt.

    Messages are objects with `role` and `content`; in a table, the list is JSON in a cell. The tokenizer's chat
    template is used, if it has one; otherwise each message of the prompt is a line `role: content`, and the prompt ends
    in `assistant:`.
    """
    return _pairs_to_ids([_prompt_and_reply(example, tokenizer, messages_column)], tokenizer)[0]


def _chats_to_ids(
    examples: list[dict[str, Any]], tokenizer: Any, *, messages_column: str = "messages", **_: Any
) -> list[dict[str, Any]]:
    pairs = [_prompt_and_reply(example, tokenizer, messages_column) for example in examples]
    return _pairs_to_ids(pairs, tokenizer)


def _prompt_and_reply(example: dict[str, Any], tokenizer: Any, messages_column: str) -> tuple[str, str]:
    messages = as_messages(_first(example, messages_column))
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        raise DataError(f"column {messages_column!r} must be a list of at least two messages.")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise DataError(f"a message in {messages_column!r} is not an object with role and content.")
        checked_text(message["content"], "content")
    if messages[-1]["role"] != "assistant":
        raise DataError(
            f"the last message in {messages_column!r} is of {messages[-1]['role']!r}, not of the assistant."
        )
    if getattr(tokenizer, "chat_template", None):
        prompt = tokenizer.apply_chat_template(list(messages[:-1]), tokenize=False, add_generation_prompt=True)
    else:
        prompt = "".join(f"{m['role']}: {m['content']}\n" for m in messages[:-1]) + "assistant:"
    return prompt, str(messages[-1]["content"])


def as_messages(value: Any) -> Any:
    """The value of a column; a list of messages in it that is written as JSON becomes a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            found = json.loads(value)
            if all(isinstance(message, dict) and "content" in message for message in found):
                return found
    return value


def _pairs_to_ids(pairs: Sequence[tuple[str, str]], tokenizer: Any) -> list[dict[str, Any]]:
    ids = ids_of_texts([text for pair in pairs for text in pair], tokenizer)
    return [
        {"prompt_ids": prompt_ids, "input_ids": answer_ids, NUM_BYTES: len(answer.encode())}
        for (_, answer), prompt_ids, answer_ids in zip(pairs, ids[::2], ids[1::2], strict=True)
    ]


def ids_of_texts(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """The ids of each text without special tokens, as `tokenizer(text, add_special_tokens=False)` gives them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "encode_batch_fast") or not _is_plain(type(tokenizer)):
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    # As the call does it: without truncation and padding that the tokenizer's file may ask for.
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _is_plain(kind: type) -> bool:
    """Whether a class of transformers calls its Rust tokenizer without changes of its own."""
    from transformers import PreTrainedTokenizerFast

    names = ("__call__", "_encode_plus")
    return all(getattr(kind, name, None) is getattr(PreTrainedTokenizerFast, name, None) for name in names)


def _without(example: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name not in columns}


def _ids(example: Any, *columns: str) -> Any:
    """The first of these columns that exists, a sequence; its values are checked when examples are prepared."""
    value = _first(example, *columns)
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__getitem__"):
        name = next(name for name in columns if name in example)
        raise DataError(f"column {name!r} holds {name_of_kind(value)}, not a list of ids.")
    return value


def nested_value(example: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or at `a.b` of an example `{"a": {"b": …}}`; None without one."""
    if path in example:
        return example[path]
    found: Any = example
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _first(example: Any, *columns: str) -> Any:
    if not isinstance(example, Mapping):
        raise DataError(f"it is {name_of_kind(example)}, not an object with columns.")
    for name in columns:
        if name in example:
            return example[name]
        if (inner := nested_value(example, name)) is not None:
            return inner
    has = f"it has: {as_line(', '.join(example))[:_SHOWN] or 'none'}"
    hint = did_you_mean(nearest_names(columns[0], example))
    lacks = (
        f"the column {columns[0]!r} is missing" if len(columns) == 1 else f"none of the columns {', '.join(columns)}"
    )
    raise DataError(f"{lacks}; {has}. {hint}".rstrip())


#: The forms of functions for many examples at once, with the same results.
BATCHED: dict[Callable[..., Any], Callable[..., list[dict[str, Any]]]] = {
    text_to_input_ids: _texts_to_input_ids,
    prompt_and_answer_to_ids: _prompts_and_answers_to_ids,
    chat_to_ids: _chats_to_ids,
}

# Documents joined at a time; only the last block of each group may be shorter than the others.
GROUP_SIZE = 1000


def pack_sequences(
    batch: dict[str, list[Any]],
    tokenizer: Any,
    block_size: int,
    *,
    drop_last: bool = False,
    **_: Any,
) -> dict[str, list[list[int]]]:
    """`input_ids` of many documents as blocks of `block_size` tokens: doc EOS doc EOS …

    The last block may be shorter; `drop_last` drops it if there is a full one. No other token is lost.
    """
    if block_size < 1:
        raise DataError(f"block_size must be at least 1 to pack sequences; got {block_size}.")
    stream: list[int] = []
    for ids in batch["input_ids"]:
        stream += ids
        stream.append(tokenizer.eos_token_id)
    blocks = [stream[start : start + block_size] for start in range(0, len(stream), block_size)]
    if drop_last and len(blocks) > 1 and len(blocks[-1]) < block_size:
        blocks.pop()
    return {"input_ids": blocks}


def process_groups(
    rows: Iterable[dict[str, Any]],
    function: Callable[[dict[str, list[Any]]], dict[str, list[Any]]],
    group_size: int = GROUP_SIZE,
) -> Iterator[dict[str, Any]]:
    """Apply a `columns -> columns` function to groups of rows; it may return more or fewer rows."""
    iterator = iter(rows)
    while group := list(islice(iterator, group_size)):
        columns = function({name: [row[name] for row in group] for name in group[0]})
        yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))

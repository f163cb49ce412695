"""Packing: documents joined by EOS and cut into blocks of equal length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from xlm.errors import DataError

# Documents joined at a time; only the last block of each such group is shorter than the others.
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

    The last block may be shorter; `drop_last` leaves it out when there is a full one. No token is lost else.
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

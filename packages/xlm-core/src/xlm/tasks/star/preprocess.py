"""From a raw star graph to token ids, whether its columns hold lists, arrays of nodes or text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from xlm.errors import DataError
from xlm.utils.text_files import name_of_kind

Edge = Sequence[Any]


def star_preprocess(example: dict[str, Any], tokenizer: Any, **_: Any) -> dict[str, list[int]]:
    """`prompt_ids`: edges flattened, source, goal. `input_ids`: the path's edges flattened. One token a node."""
    missing = [name for name in ("edge_list", "source", "goal", "path") if name not in example]
    if missing:
        raise DataError(f"A star graph lacks the columns {', '.join(missing)}; it has {', '.join(example) or 'none'}.")
    source, goal = str(example["source"]).strip(), str(example["goal"]).strip()
    edges = _as_edges(example["edge_list"], "edge_list")
    path = _as_edges(example["path"], "path")
    if not path or path[0][0] != source or path[-1][1] != goal:
        raise DataError(f"A star graph's path does not lead from its source {source} to its goal {goal}: {path}.")
    prompt = [node for edge in edges for node in edge] + [source, goal]
    answer = [node for edge in path for node in edge]
    ids = tokenizer.convert_tokens_to_ids(prompt + answer)
    if tokenizer.unk_token_id in ids:
        unknown = sorted({n for n, i in zip(prompt + answer, ids, strict=True) if i == tokenizer.unk_token_id})
        raise DataError(
            f"The tokenizer does not know the node labels {', '.join(unknown[:5])}. Is vocab_size too small?"
        )
    return {"prompt_ids": ids[: len(prompt)], "input_ids": ids[len(prompt) :]}


def _as_edges(value: Any, column: str) -> list[tuple[str, str]]:
    """Edges of a list of pairs, a list of nodes (a path), or the text of either."""
    if not isinstance(value, Iterable):
        raise DataError(f"The column {column} holds {name_of_kind(value)}, neither pairs nor nodes.")
    items = _parse(value) if isinstance(value, str) else list(value)
    if items and not isinstance(items[0], (list, tuple)) and not hasattr(items[0], "tolist"):
        nodes = [str(item).strip() for item in items]
        return list(pairwise(nodes))
    try:
        return [(str(tail), str(head)) for tail, head in items]
    except (TypeError, ValueError) as error:
        raise DataError(f"The column {column} holds neither pairs nor nodes: {str(value)[:80]}.") from error


def _parse(text: str) -> list[Any]:
    """Read `[[0, 1], [1, 2]]`, `(0,1) (1,2)`, `0,1|1,2` or, for nodes, `0,1,2` and `0 1 2`."""
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError:
        loaded = None
    if isinstance(loaded, list):
        return loaded
    pairs = re.findall(r"[\[(]\s*([^\s,\[\]()]+)[\s,]+([^\s,\[\]()]+)\s*[\])]", text)
    if pairs:
        return [[_unquoted(tail), _unquoted(head)] for tail, head in pairs]
    groups = [re.split(r"[\s,]+", group.strip()) for group in re.split(r"[|;]", text) if group.strip()]
    return groups if len(groups) > 1 else [node for group in groups for node in group]


def _unquoted(node: str) -> str:
    return node.strip("'\"")

"""Star graphs: vectorized generation of raw rows, preprocessing to token ids, and a check of paths."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from xlm.data.hashing import splitmix64
from xlm.errors import DataError
from xlm.tasks.generated import check_request, checked_difficulty, new_examples
from xlm.utils.text_files import name_of_kind

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Graphs drawn at once. A constant, so that a shorter data set is a prefix of a longer one.
_BLOCK_SIZE = 8192
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class StarConfig:
    """Shape of a star: `degree` arms of `min_length` to `max_length` nodes, out of `num_labels` node labels.

    `plan` None: all arms start at the center, which is the source. Otherwise arms cross at one junction, and
    at least `plan` edges of each arm come after it.
    """

    degree: int
    min_length: int
    max_length: int
    num_labels: int
    plan: int | None = None

    def __post_init__(self) -> None:
        most = self.degree * (self.max_length - 1) + 1
        if self.degree < 1 or not 2 <= self.min_length <= self.max_length:
            raise DataError(f"A star needs degree >= 1 and 2 <= min_length <= max_length; got {self}.")
        if most > self.num_labels:
            raise DataError(f"A star of up to {most} nodes needs num_labels >= {most}; got {self.num_labels}.")
        if self.plan is not None and not 1 <= self.plan < self.min_length:
            raise DataError(f"plan must be at least 1 and below min_length ({self.min_length}); got {self.plan}.")

    @property
    def max_prompt_length(self) -> int:
        """Tokens of the longest prompt: two per edge, the source and the goal."""
        return 2 * self.degree * (self.max_length - 1) + 2

    @property
    def max_answer_length(self) -> int:
        """Tokens of the longest path, two per edge."""
        return 2 * (self.max_length - 1)


DIFFICULTIES = {
    "mini": StarConfig(degree=2, min_length=4, max_length=4, num_labels=12),
    "easy": StarConfig(degree=3, min_length=5, max_length=5, num_labels=20),
    "medium": StarConfig(degree=3, min_length=3, max_length=6, num_labels=20, plan=2),
    "hard": StarConfig(degree=5, min_length=6, max_length=12, num_labels=56, plan=5),
}


class _Block(NamedTuple):
    """Graphs as padded arrays; row i holds `num_edges[i]` edges and a path of `path_length[i]` nodes."""

    edges: Ints  # (N, E, 2)
    num_edges: Ints  # (N,)
    path: Ints  # (N, max_length)
    path_length: Ints  # (N,)


class StarGraphs:
    """The first `num_examples` star graphs of `split`, as an iterable of dicts, the same for equal arguments.

    `tokenizer` is not used: every dataset constructor gets it. `degree`, `min_length`, … override the settings of
    `difficulty`. No graph appears twice or in two splits, whatever the seeds and sizes.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        num_examples: int = 50_000,
        *,
        split: str = "train",
        seed: int = 0,
        difficulty: str = "easy",
        **shape: int | None,
    ) -> None:
        checked_difficulty("star", difficulty, DIFFICULTIES)
        check_request("Star graphs", split, num_examples, seed)
        self.num_examples = num_examples
        self.split = split
        self.seed = seed
        self.config = replace(DIFFICULTIES[difficulty], **shape)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        blocks = new_examples(
            lambda rng: _draw(self.config, rng, _BLOCK_SIZE),
            _content_hashes,
            split=self.split,
            num_examples=self.num_examples,
            seed=self.seed,
            too_few=lambda found: f"{self.config} has only {found} graphs for '{self.split}', not {self.num_examples}.",
        )
        for block, rows in blocks:
            yield from _rows(block, rows)


def _draw(config: StarConfig, rng: np.random.Generator, num_graphs: int) -> _Block:
    """Draw graphs; the query is always arm 0, since arms are exchangeable."""
    N, D, M = num_graphs, config.degree, config.max_length
    lengths = rng.integers(config.min_length, M + 1, size=(N, D))
    if config.plan is None:
        joins = np.zeros((N, D), dtype=np.int64)
    else:
        joins = np.floor(rng.random((N, D)) * (lengths - config.plan)).astype(np.int64)
    position = np.arange(M)
    real = position < lengths[..., None]  # (N, D, M)
    at_junction = position == joins[..., None]
    # Node 0 is the junction; all others have consecutive numbers, so that they differ.
    others = (real & ~at_junction).reshape(N, D * M)
    nodes = np.where(at_junction, 0, others.cumsum(axis=1).reshape(N, D, M))
    labels = rng.random((N, config.num_labels)).argsort(axis=1)
    names = np.take_along_axis(labels, nodes.clip(max=config.num_labels - 1).reshape(N, D * M), axis=1)
    names = names.reshape(N, D, M)
    edges = np.stack([names[..., :-1], names[..., 1:]], axis=-1).reshape(N, D * (M - 1), 2)
    is_edge = real[..., 1:].reshape(N, D * (M - 1))
    # Real edges in random order, before the padding.
    order = np.where(is_edge, rng.random(is_edge.shape), 2.0).argsort(axis=1)
    return _Block(
        edges=np.take_along_axis(edges, order[..., None], axis=1),
        num_edges=is_edge.sum(axis=1),
        path=names[:, 0],
        path_length=lengths[:, 0],
    )


def _content_hashes(block: _Block) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each graph's set of edges, source and goal, independent of the order of the edges."""
    rows = np.arange(len(block.path))
    is_edge = np.arange(block.edges.shape[1]) < block.num_edges[:, None]
    edge_codes = (block.edges[..., 0] << 20 | block.edges[..., 1]).astype(np.uint64)
    total = np.where(is_edge, splitmix64(edge_codes), np.uint64(0)).sum(axis=1, dtype=np.uint64)
    source, goal = block.path[:, 0], block.path[rows, block.path_length - 1]
    return splitmix64(total ^ splitmix64((source << 20 | goal).astype(np.uint64)))


def _rows(block: _Block, rows: list[int]) -> Iterator[dict[str, Any]]:
    # A few rows at a time: the garbage collector visits all nested lists that are alive.
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        path = block.path[some]
        path_edges = np.stack([path[:, :-1], path[:, 1:]], axis=-1)
        columns = (block.edges[some], block.num_edges[some], path_edges, block.path_length[some])
        for edges, num_edges, answer, length in zip(*(column.tolist() for column in columns), strict=True):
            answer = answer[: length - 1]
            yield {
                "edge_list": edges[:num_edges],
                "source": answer[0][0],
                "goal": answer[-1][1],
                "path": answer,
            }


Edge = Sequence[Any]


def star_preprocess(example: dict[str, Any], tokenizer: Any, **_: Any) -> dict[str, list[int]]:
    """`prompt_ids`: edges flattened, source, goal. `input_ids`: the path's edges flattened. One token a node."""
    missing = [name for name in ("edge_list", "source", "goal", "path") if name not in example]
    if missing:
        raise DataError(
            f"A star graph needs the columns {', '.join(missing)}, but has only {', '.join(example) or 'none'}."
        )
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
            f"The tokenizer has no tokens for the node labels {', '.join(unknown[:5])}. Is vocab_size too small?"
        )
    return {"prompt_ids": ids[: len(prompt)], "input_ids": ids[len(prompt) :]}


def _as_edges(value: Any, column: str) -> list[tuple[str, str]]:
    """Edges from a list of pairs, a list of nodes (a path), or either as text."""
    if not isinstance(value, Iterable):
        raise DataError(f"The column {column} holds {name_of_kind(value)} instead of pairs or nodes.")
    items = _parse(value) if isinstance(value, str) else list(value)
    if items and not isinstance(items[0], (list, tuple)) and not hasattr(items[0], "tolist"):
        nodes = [str(item).strip() for item in items]
        return list(pairwise(nodes))
    try:
        return [(str(tail), str(head)) for tail, head in items]
    except (TypeError, ValueError) as error:
        raise DataError(f"The column {column} must hold pairs or nodes, not: {str(value)[:80]}.") from error


def _parse(text: str) -> list[Any]:
    """Read `[[0, 1], [1, 2]]`, `(0,1) (1,2)`, `0,1|1,2` or, for nodes, `0,1,2` and `0 1 2`."""
    try:
        loaded = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
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


def is_valid_path(
    edge_list: Iterable[Sequence[Hashable]],
    source: Hashable,
    goal: Hashable,
    path: Sequence[Hashable] | Sequence[Sequence[Hashable]],
) -> bool:
    """Whether `path` is a chain of edges of the graph from `source` to `goal`.

    `path` is a list of edges, or the same flattened, as a model generates it (inner nodes twice).
    """
    edges = _pairs(path)
    if not edges or edges[0][0] != source or edges[-1][1] != goal:
        return False
    connected = all(before[1] == after[0] for before, after in pairwise(edges))
    return connected and set(edges) <= {(edge[0], edge[1]) for edge in edge_list}


def _pairs(path: Sequence[Hashable] | Sequence[Sequence[Hashable]]) -> list[tuple[Hashable, Hashable]]:
    """The edges of `path`; empty if it is not a list of pairs."""
    edges: list[Any] = list(path)
    if not all(isinstance(edge, list | tuple) for edge in edges):
        edges = [edges[i : i + 2] for i in range(0, len(edges), 2)]
    return [(edge[0], edge[1]) for edge in edges] if all(len(edge) == 2 for edge in edges) else []

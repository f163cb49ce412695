"""Judges an answer to a star graph by the graph itself, not by the one path that the data set holds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


def is_valid_path(
    edge_list: Iterable[Sequence[Hashable]],
    source: Hashable,
    goal: Hashable,
    path: Sequence[Hashable] | Sequence[Sequence[Hashable]],
) -> bool:
    """Whether `path` is a chain of edges of the graph from `source` to `goal`.

    `path` is a list of edges, or the same flattened, as a model writes it (inner nodes twice).
    """
    edges = _pairs(path)
    if not edges or edges[0][0] != source or edges[-1][1] != goal:
        return False
    connected = all(before[1] == after[0] for before, after in zip(edges, edges[1:], strict=False))
    return connected and set(edges) <= {(edge[0], edge[1]) for edge in edge_list}


def _pairs(path: Sequence[Hashable] | Sequence[Sequence[Hashable]]) -> list[tuple[Hashable, Hashable]]:
    """The edges of `path`; none when it is no list of pairs."""
    if all(isinstance(item, (list, tuple)) for item in path):
        return [(item[0], item[1]) for item in path if len(item) == 2] if all(len(i) == 2 for i in path) else []  # type: ignore[arg-type,index]
    if len(path) % 2:
        return []
    return [(path[i], path[i + 1]) for i in range(0, len(path), 2)]

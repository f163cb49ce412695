"""Judges an answer to a star graph by the graph itself, not by the one path that the data set holds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any


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
    connected = all(before[1] == after[0] for before, after in pairwise(edges))
    return connected and set(edges) <= {(edge[0], edge[1]) for edge in edge_list}


def _pairs(path: Sequence[Hashable] | Sequence[Sequence[Hashable]]) -> list[tuple[Hashable, Hashable]]:
    """The edges of `path`; none when it is no list of pairs."""
    edges: list[Any] = list(path)
    if not all(isinstance(edge, list | tuple) for edge in edges):
        edges = [edges[i : i + 2] for i in range(0, len(edges), 2)]
    return [(edge[0], edge[1]) for edge in edges] if all(len(edge) == 2 for edge in edges) else []

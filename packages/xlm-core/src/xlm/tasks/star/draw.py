"""The drawing of a star graph in a trace: nodes on a grid, the junction in the middle, arms as rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypedDict

Edge = tuple[str, str]


class Node(TypedDict):
    """A node at column x and row y, from 0; `id` is its token."""

    id: str
    x: float
    y: float


class GraphDrawing(TypedDict):
    """A graph for the page, the pictures and the terminal. Answers are read as edges: two tokens each.

    `good`: the edges of all paths from source to goal; other edges of an answer are marked as wrong.
    """

    kind: Literal["graph"]
    title: str
    nodes: list[Node]
    edges: list[Edge]
    source: str
    goal: str
    good: list[Edge]


def draw_graph(prompt: str) -> GraphDrawing | None:
    """The drawing of a star graph's prompt (edges flattened, source, goal); None for any other text."""
    words = prompt.split()
    if len(words) < 4 or len(words) % 2:
        return None
    *pairs, source, goal = words
    edges = list(dict.fromkeys(zip(pairs[::2], pairs[1::2], strict=True)))
    names = list(dict.fromkeys([*pairs, source, goal]))
    places = _places(names, edges, source)
    from_source = _reached(source, edges)
    to_goal = _reached(goal, [(head, tail) for tail, head in edges])
    return {
        "kind": "graph",
        "title": f"From {source} to {goal}",
        "nodes": [{"id": name, "x": places[name][0], "y": places[name][1]} for name in names],
        "edges": edges,
        "source": source,
        "goal": goal,
        "good": [(tail, head) for tail, head in edges if tail in from_source and head in to_goal],
    }


def _reached(start: str, edges: Iterable[Edge]) -> set[str]:
    """All nodes that can be reached from `start`, including itself."""
    edges = list(edges)
    reached, new = {start}, {start}
    while new:
        new = {head for tail, head in edges if tail in new} - reached
        reached |= new
    return reached


def _places(names: list[str], edges: list[Edge], source: str) -> dict[str, tuple[float, float]]:
    """Column and row of each node: predecessors of the busiest node are on its left, successors on its right.

    On each side every arm has a row. Arms are ordered by the names of their nodes, so the random order of the edges
    in the prompt does not matter.
    """
    degree = {name: sum(name in edge for edge in edges) for name in names}
    centre = max(names, key=lambda name: (degree[name], name == source, _order(name)))
    places: dict[str, tuple[float, float]] = {centre: (0.0, 0.0)}
    heights = []
    for sign, towards in ((-1, [(head, tail) for tail, head in edges]), (1, edges)):
        heights.append(_side(centre, sign, towards, places))
    # Nodes without a connection to the placed ones go below.
    rest = sorted((name for name in names if name not in places), key=_order)
    for number, name in enumerate(rest):
        places[name] = (number - (len(rest) - 1) / 2, max(heights) / 2 + 0.5)
    left, top = min(x for x, _ in places.values()), min(y for _, y in places.values())
    return {name: (x - left, y - top) for name, (x, y) in places.items()}


def _side(centre: str, sign: int, towards: list[Edge], places: dict[str, tuple[float, float]]) -> int:
    """Place everything on one side of the center; returns the number of its rows."""
    rows: list[list[tuple[str, int]]] = []
    for first in _next(centre, towards, places):
        if first not in places:
            _walk(first, 1, towards, places, [], rows)
    for number, row in enumerate(rows):
        for name, depth in row:
            places[name] = (float(sign * depth), number - (len(rows) - 1) / 2)
    return len(rows)


def _walk(
    name: str,
    depth: int,
    towards: list[Edge],
    places: dict[str, tuple[float, float]],
    arm: list[tuple[str, int]],
    rows: list[list[tuple[str, int]]],
) -> None:
    """Follow an arm outwards; where it branches, the first branch stays in its row and each other gets a new one."""
    while True:
        places[name] = (0.0, 0.0)  # reserved; its position is set below
        arm.append((name, depth))
        if len(arm) == 1:
            rows.append(arm)
        # Along the arm first; an edge in the opposite direction means that the graph is not a star.
        further = _next(name, towards, places) or _next(name, [(b, a) for a, b in towards], places)
        if not further:
            return
        for branch in further[1:]:
            if branch not in places:
                _walk(branch, depth + 1, towards, places, [], rows)
        if further[0] in places:
            return
        name, depth = further[0], depth + 1


def _next(name: str, towards: Iterable[Edge], places: dict[str, tuple[float, float]]) -> list[str]:
    return sorted({head for tail, head in towards if tail == name and head not in places}, key=_order)


def _order(name: str) -> tuple[int, int, str]:
    """Numbers in numerical order, then other names."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)

"""The drawing of a star graph: separate positions, the right edges, independent of the order in the prompt."""

from __future__ import annotations

import random

import pytest

from xlm.tasks.star import StarGraphs, draw_graph


def prompt_of(example: dict[str, object], shuffled: random.Random | None = None) -> str:
    edges = list(example["edge_list"])  # type: ignore[call-overload]
    if shuffled is not None:
        shuffled.shuffle(edges)
    return " ".join(str(node) for edge in edges for node in edge) + f" {example['source']} {example['goal']}"


@pytest.mark.parametrize("difficulty", ["mini", "easy", "medium", "hard"])
def test_graphs_of_every_difficulty(difficulty: str) -> None:
    for example in StarGraphs(num_examples=60, split="test", difficulty=difficulty):
        drawing = draw_graph(prompt_of(example))
        assert drawing is not None
        places = {node["id"]: (node["x"], node["y"]) for node in drawing["nodes"]}
        nodes = {str(node) for edge in example["edge_list"] for node in edge}
        assert places.keys() == nodes
        assert len(set(places.values())) == len(places), "no two nodes at one place"
        assert min(x for x, _ in places.values()) == min(y for _, y in places.values()) == 0
        # Time runs from left to right along every edge.
        assert all(places[head][0] == places[tail][0] + 1 for tail, head in drawing["edges"])
        assert sorted(drawing["good"]) == sorted((str(tail), str(head)) for tail, head in example["path"])
        assert draw_graph(prompt_of(example, random.Random(1)))["nodes"] != []  # type: ignore[index]


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
def test_the_order_of_the_edges_changes_no_place(difficulty: str) -> None:
    for number, example in enumerate(StarGraphs(num_examples=30, split="test", difficulty=difficulty)):
        drawings = [draw_graph(prompt_of(example, random.Random(number + n))) for n in range(2)]
        first, second = ({node["id"]: node for node in drawing["nodes"]} for drawing in drawings if drawing)
        assert first == second


@pytest.mark.parametrize("text", ["", "1 2 3", "1 2", "And God said", "1 2 3 4 5"])
def test_other_texts_are_no_graphs(text: str) -> None:
    assert draw_graph(text) is None


def test_other_graphs_are_drawn_too() -> None:
    """A circle with a tail, and an edge apart."""
    drawing = draw_graph("a b b c c a c d x y a d")
    assert drawing is not None
    places = [(node["x"], node["y"]) for node in drawing["nodes"]]
    assert len(set(places)) == len(places) == 6
    assert ("x", "y") not in drawing["good"]

"""The verifier accepts exactly the paths that the graph allows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from xlm.tasks.star import StarGraphs, is_valid_path

EDGES = [[0, 1], [1, 2], [0, 3], [3, 4]]


@pytest.mark.parametrize(
    ("path", "valid"),
    [
        ([[0, 1], [1, 2]], True),
        ([0, 1, 1, 2], True),
        (["0", "1", "1", "2"], False),
        ([(0, 1), (1, 2)], True),
        ([[0, 1]], False),  # stops before the goal
        ([[1, 2]], False),  # starts after the source
        ([0, 1, 2], False),  # nodes once
        ([0, 1, 3, 2], False),  # torn
        ([0, 2], False),  # no such edge
        ([[0, 1], [1]], False),
        ([], False),
    ],
)
def test_paths(path: Any, valid: bool) -> None:
    assert is_valid_path(EDGES, 0, 2, path) is valid


def test_every_generated_path_is_valid_and_none_of_another_graph() -> None:
    rows = list(StarGraphs(None, 50, difficulty="medium"))
    for row, other in pairwise(rows):
        assert is_valid_path(row["edge_list"], row["source"], row["goal"], row["path"])
        assert not is_valid_path(row["edge_list"], row["source"], row["goal"], other["path"])

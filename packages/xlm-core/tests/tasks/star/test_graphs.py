"""Star graphs: the shapes of the task, the same for the same seed, never in two splits."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.errors import DataError
from xlm.tasks.star import DIFFICULTIES, StarConfig, StarGraphs, is_valid_path

# The first graph of all.
PINNED = {
    "edge_list": [
        [18, 19],
        [11, 3],
        [8, 6],
        [0, 7],
        [19, 17],
        [6, 0],
        [11, 8],
        [2, 15],
        [1, 18],
        [11, 1],
        [3, 13],
        [13, 2],
    ],
    "source": 11,
    "goal": 15,
    "path": [[11, 3], [3, 13], [13, 2], [2, 15]],
}
# Longest prompt and answer in tokens, as published.
LENGTHS = {"mini": (14, 6), "easy": (26, 8), "medium": (32, 10), "hard": (112, 22)}


def graphs(difficulty: str = "easy", n: int = 300, **options: Any) -> list[dict[str, Any]]:
    return list(StarGraphs(None, n, difficulty=difficulty, **options))


def content(row: dict[str, Any]) -> tuple[Any, ...]:
    return frozenset(map(tuple, row["edge_list"])), row["source"], row["goal"]


def check_graph(row: dict[str, Any], config: StarConfig) -> None:
    edges, source, goal = content(row)
    path = row["path"]
    assert len(edges) == len(row["edge_list"])
    assert is_valid_path(row["edge_list"], source, goal, path)
    assert all(before[1] == after[0] for before, after in pairwise(path))
    assert config.min_length - 1 <= len(path) <= config.max_length - 1
    labels = {node for edge in edges for node in edge}
    assert labels <= set(range(config.num_labels))
    degrees_out, degrees_in = Counter(tail for tail, _ in edges), Counter(head for _, head in edges)
    assert sum(degree > 1 for degree in degrees_out.values()) == (config.degree > 1)  # one junction
    assert max(degrees_out.values()) == config.degree
    assert degrees_out[goal] == 0
    junction = max(degrees_out, key=lambda node: degrees_out[node])
    if config.plan is None:
        assert source == junction
        assert not degrees_in[source]
    else:
        behind = [tail for tail, _ in path].index(junction)
        assert len(path) - behind >= config.plan
    assert max(degrees_in.values(), default=0) <= config.degree


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_shapes_are_those_of_the_task(difficulty: str) -> None:
    config = DIFFICULTIES[difficulty]
    rows = graphs(difficulty)
    for row in rows:
        check_graph(row, config)
    prompts = [2 * len(row["edge_list"]) + 2 for row in rows]
    answers = [2 * len(row["path"]) for row in rows]
    assert (config.max_prompt_length, config.max_answer_length) == LENGTHS[difficulty]
    assert max(prompts) <= LENGTHS[difficulty][0]
    assert max(answers) == LENGTHS[difficulty][1]
    if difficulty == "easy":
        assert set(prompts) == {26}
        assert set(answers) == {8}
    assert {node for row in rows for edge in row["edge_list"] for node in edge} == set(range(config.num_labels))


@st.composite
def configs(draw: st.DrawFn) -> StarConfig:
    degree, min_length = draw(st.integers(2, 5)), draw(st.integers(2, 6))
    max_length = draw(st.integers(min_length, 9))
    plan = draw(st.none() | st.integers(1, min_length - 1))
    return StarConfig(degree, min_length, max_length, degree * (max_length - 1) + 1 + draw(st.integers(5, 9)), plan)


@settings(deadline=None, max_examples=15)
@given(configs(), st.integers(0, 3))
def test_any_shape_gives_valid_graphs(config: StarConfig, seed: int) -> None:
    shape = {name: getattr(config, name) for name in ("degree", "min_length", "max_length", "num_labels", "plan")}
    for row in islice(StarGraphs(None, 5, seed=seed, **shape), 5):
        check_graph(row, config)


def test_edges_are_in_random_order() -> None:
    firsts = Counter(row["edge_list"].index(row["path"][0]) for row in graphs(n=1200))
    assert set(firsts) == set(range(12))
    assert max(firsts.values()) < 2 * min(firsts.values())


def test_same_arguments_same_graphs_and_shorter_is_a_prefix() -> None:
    assert graphs(n=20, seed=3) == graphs(n=20, seed=3) == graphs(n=40, seed=3)[:20]
    assert graphs(n=20, seed=3) != graphs(n=20, seed=4)
    code = "from xlm.tasks.star import StarGraphs; print(list(StarGraphs(None, 3, seed=3)))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(graphs(n=3, seed=3))


def test_graphs_are_pinned() -> None:
    # Published results are about these graphs: a change of the generator must be a decision.
    assert graphs(n=1)[0] == PINNED


def test_splits_share_no_graph_even_with_other_seeds() -> None:
    shape = {"degree": 2, "min_length": 2, "max_length": 2, "num_labels": 8}  # few graphs there are
    train = {content(row) for row in graphs(n=100, split="train", seed=1, **shape)}
    assert len(train) == 100
    for split, n in (("val", 8), ("test", 8)):
        held_out = {content(row) for seed in (1, 2) for row in graphs(n=n, split=split, seed=seed, **shape)}
        assert train.isdisjoint(held_out)


def test_too_many_graphs_for_the_shape() -> None:
    with pytest.raises(DataError, match=r"has only .* graphs for 'val', not 1000"):
        graphs(n=1000, split="val", degree=1, min_length=2, max_length=2, num_labels=6)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(DataError, match=r"'hrad'\. Choose one of: mini, easy, medium, hard\. Did you mean 'hard'"):
        graphs("hrad")
    with pytest.raises(DataError, match=r"Star graphs have no split 'dev'\. Choose one of: train, val, test"):
        graphs(split="dev")
    with pytest.raises(DataError, match="needs num_labels >= 13; got 5"):
        graphs(num_labels=5)
    with pytest.raises(DataError, match="plan must be at least 1 and below min_length"):
        graphs("medium", plan=3)
    with pytest.raises(DataError, match="2 <= min_length <= max_length"):
        graphs(min_length=9)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_fifty_thousand_graphs_take_seconds(difficulty: str) -> None:
    gc.freeze()  # as the cache does while it writes
    try:
        start = time.process_time()
        assert sum(1 for _ in StarGraphs(None, 50_000, difficulty=difficulty)) == 50_000
        assert time.process_time() - start < 10  # 0.3 to 1 second on an idle core
    finally:
        gc.unfreeze()


def test_length() -> None:
    assert len(StarGraphs(None, 7)) == 7
    assert graphs(n=0) == []

"""Graph colouring with three colours: examples and a judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xlm.tasks.generated import Example, GeneratedExamples

COLOURS = ("r", "g", "b")


@dataclass(frozen=True)
class Level:
    """Graphs of `nodes` nodes and `min_edges` to `max_edges` edges."""

    nodes: int
    min_edges: int
    max_edges: int


class Colourings(GeneratedExamples):
    """Graphs as `prompt` (the number of nodes, then pairs of nodes, from 0) and a colour of each node as `answer`.

    Every graph can be coloured: its edges join nodes of different colours in a hidden colouring, which is the answer.
    Most graphs have others too. Random graphs stop being 3-colourable at about 2.3 edges per node: there the task is
    hard.
    """

    task = "graph colouring"
    difficulties: ClassVar[Mapping[str, Level]] = {
        "mini": Level(nodes=7, min_edges=6, max_edges=12),
        "easy": Level(nodes=9, min_edges=9, max_edges=16),
        "medium": Level(nodes=12, min_edges=18, max_edges=26),
        "hard": Level(nodes=20, min_edges=40, max_edges=48),
    }

    def draw(self, rng: np.random.Generator) -> Example:
        level = self.difficulties[self.difficulty]
        while True:
            colours = rng.integers(len(COLOURS), size=level.nodes)
            tails, heads = np.nonzero(np.triu(colours[:, None] != colours[None, :]))
            if len(tails) >= level.max_edges:
                break
        number = int(rng.integers(level.min_edges, level.max_edges + 1))
        chosen = rng.permutation(len(tails))[:number]
        edges = np.stack([tails[chosen], heads[chosen]], axis=1)
        edges = np.where(rng.random((number, 1)) < 0.5, edges, edges[:, ::-1])
        prompt = [level.nodes, *edges.flatten().tolist()]
        return {
            "prompt": " ".join(map(str, prompt)),
            "answer": " ".join(COLOURS[colour] for colour in colours.tolist()),
        }

    def content(self, example: Example) -> str:
        """The edges, in any order and direction."""
        number, *ends = map(int, example["prompt"].split())
        return f"{number} {sorted(sorted(edge) for edge in zip(ends[::2], ends[1::2], strict=True))}"


def is_colouring(prompt: str, answer: str, reference: str | None = None) -> bool:
    """Whether `answer` gives each node one of the colours, and the ends of every edge different ones."""
    words, colours = prompt.split(), answer.split()
    if len(words) % 2 == 0 or not all(word.isascii() and word.isdecimal() and len(word) <= 4 for word in words):
        return False
    number, *ends = map(int, words)
    if len(colours) != number or not set(colours) <= set(COLOURS) or max(ends, default=0) >= number:
        return False
    return all(colours[tail] != colours[head] for tail, head in zip(ends[::2], ends[1::2], strict=True))

"""N queens: complete a partial placement so that no queen attacks another. Examples, a judge and a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xlm.tasks.generated import Example, GeneratedExamples
from xlm.traces.document import grid

# Placements made from one solution by symmetries.
_RELATIVES = 16


@dataclass(frozen=True)
class Level:
    """Boards of `size` × `size` cells with `min_given` to `max_given` queens."""

    size: int
    min_given: int
    max_given: int


class Queens(GeneratedExamples):
    """Partial placements as `prompt`, and a completion as `answer`: the queen's column in each row, from 1.

    In a prompt, 0 is a row without a queen. Usually several completions are valid; the answer is one of them.
    """

    task = "n-queens"
    difficulties: ClassVar[Mapping[str, Level]] = {
        "mini": Level(size=9, min_given=2, max_given=5),
        "easy": Level(size=10, min_given=2, max_given=5),
        "medium": Level(size=12, min_given=2, max_given=5),
        "hard": Level(size=16, min_given=2, max_given=6),
    }

    def draw(self, rng: np.random.Generator) -> Example:
        return self.draw_block(rng)[0]

    def draw_block(self, rng: np.random.Generator) -> list[Example]:
        """Several partial placements of each random solution, turned and mirrored."""
        level = self.difficulties[self.difficulty]
        solved = [_random_solution(level.size, rng) for _ in range(self.block_size // _RELATIVES)]
        boards = np.repeat(np.array(solved) - 1, _RELATIVES, axis=0)
        N = len(boards)
        upside_down, mirrored, transposed = (rng.random((N, 1)) < 0.5 for _ in range(3))
        boards = np.where(upside_down, boards[:, ::-1], boards)
        boards = np.where(mirrored, level.size - 1 - boards, boards)
        # The inverse permutation exchanges rows and columns.
        boards = np.where(transposed, boards.argsort(axis=1), boards) + 1
        number = rng.integers(level.min_given, level.max_given + 1, size=(N, 1))
        given = rng.random(boards.shape).argsort(axis=1) < number
        return [
            {"prompt": " ".join(map(str, prompt)), "answer": " ".join(map(str, board))}
            for prompt, board in zip(np.where(given, boards, 0).tolist(), boards.tolist(), strict=True)
        ]

    def content(self, example: Example) -> str:
        return str(example["prompt"])


def is_completion(prompt: str, answer: str, reference: str | None = None) -> bool:
    """Whether `answer` has a queen in every row, none attacks another, and the given ones are there."""
    given, columns = _columns(prompt), _columns(answer)
    if given is None or columns is None or len(given) != len(columns) or 0 in columns:
        return False
    rows = range(len(columns))
    kept = all(want in (0, got) for want, got in zip(given, columns, strict=True))
    free = all(len({column + slope * row for row, column in zip(rows, columns, strict=True)}) == len(columns)
               for slope in (-1, 0, 1))  # fmt: skip
    return kept and free


def draw_queens(prompt: str) -> dict[str, Any] | None:
    """The given queens on the board, a word of the answer for each row; None for any other text."""
    given = _columns(prompt)
    if given is None:
        return None
    # A column of cells: the answer names the column of each row's queen.
    cells = [[str(column) if column else None] for column in given]
    return grid(cells, title=f"{len(given)} queens: the column of the queen in each row")


def _columns(text: str) -> list[int] | None:
    """A column for each row, 0 for none; None if the text is not a placement."""
    words = text.split()
    if not 4 <= len(words) <= 99 or not all(word.isascii() and word.isdecimal() and len(word) <= 2 for word in words):
        return None
    columns = [int(word) for word in words]
    return columns if max(columns) <= len(columns) else None


def _random_solution(size: int, rng: np.random.Generator) -> list[int]:
    """Columns of queens that don't attack each other, by search in random order; begins anew after many dead ends."""
    order = [rng.permutation(size).tolist() for _ in range(size)]
    placed: list[int] = []
    next_choice = [0] * size
    for _ in range(50 * size):
        row = len(placed)
        while next_choice[row] < size:
            column = order[row][next_choice[row]]
            next_choice[row] += 1
            if all(column != other and abs(column - other) != row - r for r, other in enumerate(placed)):
                placed.append(column)
                break
        else:
            next_choice[row] = 0
            placed.pop()
        if len(placed) == size:
            return [column + 1 for column in placed]
    return _random_solution(size, rng)

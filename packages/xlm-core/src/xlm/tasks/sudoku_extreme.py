"""Sudoku from files with the columns `question` and `answer`, as collections of the hardest puzzles are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from xlm.tasks.generated import Example
from xlm.tasks.sudoku import Level, Sudoku, draw_board, is_solution, sudoku_preprocess

__all__ = ["SudokuExtreme", "draw_board", "is_solution", "sudoku_extreme_preprocess"]


class SudokuExtreme(Sudoku):
    """Generated puzzles with as few clues as digging reaches (20 to 25), as `question` and `answer`."""

    task = "sudoku_extreme"
    difficulties: ClassVar[Mapping[str, Level]] = {"hard": Level(box=3, min_clues=20, max_clues=25)}

    def draw_block(self, rng: np.random.Generator) -> list[Example]:
        return [{"question": row["puzzle"], "answer": row["solution"]} for row in super().draw_block(rng)]

    def content(self, example: Example) -> str:
        return str(example["question"])


def sudoku_extreme_preprocess(example: Mapping[str, Any], tokenizer: Any, **_: Any) -> dict[str, list[int]]:
    """`sudoku_preprocess` for the columns `question` and `answer`; further columns (`source`, `rating`) are ignored."""
    return sudoku_preprocess(example, tokenizer, puzzle_column="question", solution_column="answer")

"""Sudoku of 9 × 9 and 4 × 4 cells: puzzles with exactly one solution, preprocessing, a judge and a drawing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from xlm.errors import DataError
from xlm.tasks.generated import Example, GeneratedExamples, columns_of, known_ids
from xlm.traces.document import grid

Ints = npt.NDArray[np.int64]

_BLANKS = str.maketrans(".-_*", "0000")
_MASKS = ("[MASK]", "<mask>")
# Puzzles made from one puzzle by symmetries and additional clues.
_RELATIVES = 32


@dataclass(frozen=True)
class Level:
    """Boards with boxes of `box` × `box` cells and `min_clues` to `max_clues` given cells."""

    box: int
    min_clues: int
    max_clues: int


class Sudoku(GeneratedExamples):
    """Puzzles with exactly one solution, as `puzzle` and `solution`: a digit per cell, row by row, 0 for a blank.

    A puzzle is dug out of a random full board cell by cell while its solution stays the only one. Others follow from
    it by symmetries (digits, rows, columns, transposition) and additional clues, which keep the solution unique. Each
    split draws puzzles of its own.
    """

    task = "sudoku"
    difficulties: ClassVar[Mapping[str, Level]] = {
        "mini": Level(box=2, min_clues=5, max_clues=8),
        "easy": Level(box=3, min_clues=36, max_clues=45),
        "medium": Level(box=3, min_clues=28, max_clues=35),
        "hard": Level(box=3, min_clues=22, max_clues=27),
    }

    def draw(self, rng: np.random.Generator) -> Example:
        return self.draw_block(rng)[0]

    def draw_block(self, rng: np.random.Generator) -> list[Example]:
        level = self.difficulties[self.difficulty]
        solution = _full_board(level.box, rng)
        given = _dig(solution, level, rng)
        boards, kept = _relatives(solution, given, level, rng)
        puzzles = np.where(kept, boards, 0)
        return [
            {"puzzle": "".join(map(str, puzzle)), "solution": "".join(map(str, board))}
            for puzzle, board in zip(puzzles.tolist(), boards.tolist(), strict=True)
        ]

    def content(self, example: Example) -> str:
        return str(example["puzzle"])


def sudoku_preprocess(
    example: Mapping[str, Any],
    tokenizer: Any,
    *,
    puzzle_column: str = "puzzle",
    solution_column: str = "solution",
    masks: bool = False,
    **_: Any,
) -> dict[str, list[int]]:
    """`prompt_ids`: the cells row by row, 0 for a blank. `input_ids`: all cells of the solution. One token per cell.

    With `masks`, blanks of the prompt are mask tokens, for models that fill them in place.
    Blanks in the column may also be written as one of `.-_*`. DataError if the solution doesn't solve the puzzle.
    """
    puzzle, solution = (text.strip() for text in columns_of(example, puzzle_column, solution_column))
    cells = puzzle.translate(_BLANKS)
    if len(cells) not in (16, 81):
        raise DataError(f"column {puzzle_column!r} has {len(cells)} characters; a sudoku has 81 cells, or 16.")
    if not is_solution(cells, solution):
        raise DataError(f"column {solution_column!r} does not solve the puzzle: {puzzle} → {solution}.")
    prompt = known_ids(list(cells), tokenizer)
    if masks:
        prompt = [tokenizer.mask_token_id if cell == "0" else token for cell, token in zip(cells, prompt, strict=True)]
    return {"prompt_ids": prompt, "input_ids": known_ids(list(solution), tokenizer)}


def is_solution(prompt: str, answer: str, reference: str | None = None) -> bool:
    """Whether `answer` is a full board with all clues of `prompt`, and every digit once per row, column and box.

    Both are digits, row by row, with or without blanks between them; a prompt has 0 or a mask in open cells. Without a
    prompt, any full board is valid. `reference` isn't needed.
    """
    cells = _cells(answer)
    clues = _cells(prompt) if prompt.strip() or cells is None else [0] * len(cells)
    if clues is None or cells is None or len(clues) != len(cells):
        return False
    if any(clue not in (0, cell) for clue, cell in zip(clues, cells, strict=True)):
        return False
    box = math.isqrt(math.isqrt(len(cells)))
    digits = set(range(1, box * box + 1))
    return all({cells[cell] for cell in unit} == digits for unit in _geometry(box).units)


def draw_board(prompt: str) -> dict[str, Any] | None:
    """The drawing of a puzzle and its solution; None for any other text."""
    clues = _cells(prompt)
    if clues is None:
        return None
    found = next(solutions(clues), None)
    box = math.isqrt(math.isqrt(len(clues)))
    size = box * box

    def rows(cells: Sequence[int]) -> list[list[str | None]]:
        return [[str(c) if c else None for c in cells[r * size : (r + 1) * size]] for r in range(size)]

    return grid(rows(clues), right=rows(found) if found else None, box=(box, box), title=f"Sudoku {size} × {size}")


def _cells(text: str) -> list[int] | None:
    """The digits of a board, 0 for a blank or a mask; None if the text is not a board."""
    plain = "".join("0" if word in _MASKS else word for word in text.split())
    if len(plain) not in (16, 81) or not (plain.isascii() and plain.isdecimal()):
        return None
    cells = [int(digit) for digit in plain]
    return cells if max(cells) <= math.isqrt(len(plain)) else None


@dataclass(frozen=True)
class _Geometry:
    """Rows, columns and boxes as lists of cells, and each cell's peers: the others in its units."""

    units: tuple[tuple[int, ...], ...]
    peers: tuple[tuple[int, ...], ...]
    full: int  # a bit per digit


@cache
def _geometry(box: int) -> _Geometry:
    size = box * box
    rows = [tuple(r * size + c for c in range(size)) for r in range(size)]
    columns = [tuple(r * size + c for r in range(size)) for c in range(size)]
    boxes = [
        tuple((r + i) * size + c + j for i in range(box) for j in range(box))
        for r in range(0, size, box)
        for c in range(0, size, box)
    ]
    units = (*rows, *columns, *boxes)
    peers = tuple(
        tuple(sorted({other for unit in units if cell in unit for other in unit} - {cell}))
        for cell in range(size * size)
    )
    return _Geometry(units, peers, (1 << size) - 1)


def solutions(cells: Sequence[int]) -> Iterator[list[int]]:
    """All solutions of a board of 16 or 81 cells (0 for a blank), found by elimination and search."""
    geometry = _geometry(math.isqrt(math.isqrt(len(cells))))
    candidates = [geometry.full] * len(cells)
    for cell, digit in enumerate(cells):
        if digit and not _place(candidates, cell, 1 << (digit - 1), geometry):
            return
    for found in _search(candidates, geometry):
        yield [mask.bit_length() for mask in found]


def _search(candidates: list[int], geometry: _Geometry) -> Iterator[list[int]]:
    if not _place_hidden_singles(candidates, geometry):
        return
    _, cell = min(((m.bit_count(), c) for c, m in enumerate(candidates) if m & (m - 1)), default=(0, -1))
    if cell < 0:
        yield candidates
        return
    mask = candidates[cell]
    while mask:
        bit = mask & -mask
        mask ^= bit
        tried = candidates.copy()
        if _place(tried, cell, bit, geometry):
            yield from _search(tried, geometry)


def _place(candidates: list[int], cell: int, bit: int, geometry: _Geometry) -> bool:
    """Put a digit into a cell and remove it from its peers, and so on for peers with one digit left; False if stuck."""
    if not candidates[cell] & bit:
        return False
    candidates[cell] = bit
    stack = [cell]
    while stack:
        cell = stack.pop()
        bit = candidates[cell]
        for peer in geometry.peers[cell]:
            mask = candidates[peer]
            if mask & bit:
                mask ^= bit
                if not mask:
                    return False
                candidates[peer] = mask
                if not mask & (mask - 1):
                    stack.append(peer)
    return True


def _place_hidden_singles(candidates: list[int], geometry: _Geometry) -> bool:
    """Place digits that fit only one cell of a unit, until there are none; False if stuck."""
    changed = True
    while changed:
        changed = False
        for unit in geometry.units:
            once = more = 0
            for cell in unit:
                mask = candidates[cell]
                more |= once & mask
                once |= mask
            if once != geometry.full:
                return False
            single = once & ~more
            for cell in unit:
                bit = candidates[cell] & single
                if bit and bit != candidates[cell]:
                    if bit & (bit - 1) or not _place(candidates, cell, bit, geometry):
                        return False
                    changed = True
    return True


def _full_board(box: int, rng: np.random.Generator) -> list[int]:
    """A random full board: random digits in random cells, each kept if the board can still be solved."""
    geometry = _geometry(box)
    while True:
        candidates = [geometry.full] * box**4
        for cell in rng.permutation(box**4).tolist():
            bits = [1 << n for n in range(box * box) if candidates[cell] >> n & 1]
            if len(bits) > 1 and not _place(candidates, cell, bits[int(rng.integers(len(bits)))], geometry):
                break
        else:
            return [mask.bit_length() for mask in candidates]


def _dig(solution: list[int], level: Level, rng: np.random.Generator) -> list[bool]:
    """The cells that stay given: as few as the level allows, or as can be reached, with one solution."""
    cells, given = solution.copy(), len(solution)
    for cell in rng.permutation(len(solution)).tolist():
        if given <= level.min_clues:
            break
        digit, cells[cell] = cells[cell], 0
        if _has_another(cells, cell, digit):
            cells[cell] = digit
        else:
            given -= 1
    return [digit > 0 for digit in cells]


def _has_another(cells: list[int], cell: int, digit: int) -> bool:
    """Whether there is a solution with another digit in this cell."""
    geometry = _geometry(math.isqrt(math.isqrt(len(cells))))
    candidates = [geometry.full] * len(cells)
    for other, clue in enumerate(cells):
        if clue:
            _place(candidates, other, 1 << (clue - 1), geometry)
    candidates[cell] &= ~(1 << (digit - 1))
    mask = candidates[cell]
    while mask:
        bit = mask & -mask
        mask ^= bit
        tried = candidates.copy()
        if _place(tried, cell, bit, geometry) and next(_search(tried, geometry), None) is not None:
            return True
    return False


def _relatives(
    solution: list[int], given: list[bool], level: Level, rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Boards that are symmetric to `solution` (N, cells), and the given cells of each."""
    N, size, cells = _RELATIVES, level.box**2, level.box**4
    # Rows within bands, bands, and the same for columns.
    rows, columns = (_permuted_lines(level.box, N, rng) for _ in range(2))
    places = rows[:, :, None] * size + columns[:, None, :]
    places = np.where(rng.random((N, 1, 1)) < 0.5, places, places.swapaxes(1, 2)).reshape(N, cells)
    digits = np.hstack([np.zeros((N, 1), dtype=np.int64), rng.random((N, size)).argsort(1) + 1])
    boards = np.take_along_axis(digits, np.asarray(solution)[places], axis=1)
    kept = np.asarray(given)[places]
    # Clues first, then other cells in random order.
    order = (rng.random((N, cells)) + ~kept).argsort(1).argsort(1)
    fewest = max(level.min_clues, sum(given))
    number = rng.integers(fewest, max(fewest, level.max_clues) + 1, size=(N, 1))
    return boards, order < number


def _permuted_lines(box: int, num_boards: int, rng: np.random.Generator) -> Ints:
    """(N, size) rows or columns: bands in random order, and the lines of each band."""
    bands = rng.random((num_boards, box)).argsort(1)[:, :, None] * box
    return (bands + rng.random((num_boards, box, box)).argsort(2)).reshape(num_boards, box * box)

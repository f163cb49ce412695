"""Logic puzzles of the kind of Einstein's riddle: examples with exactly one solution, a judge and a drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from xlm.tasks.generated import Example, GeneratedExamples
from xlm.traces.document import grid

Ints = npt.NDArray[np.int8]

KINDS = "abcd"
# Relation of a clue → whether it holds for the houses of two values, or for the house of a value and a number.
RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "same": lambda a, b: a == b,
    "left": lambda a, b: a + 1 == b,
    "next": lambda a, b: abs(a - b) == 1,
    "before": lambda a, b: a < b,
    "in": lambda a, b: a == b,
    "not": lambda a, b: a != b,
}
_OF_HOUSES = ("in", "not")


@dataclass(frozen=True)
class Level:
    """`houses` in a row, each with one value of each of `kinds` kinds; puzzles have at most `max_clues` clues."""

    houses: int
    kinds: int
    max_clues: int


class Clue(NamedTuple):
    """`first relation second`; values are `kind * houses + number`, houses are numbers from 0."""

    first: int
    relation: str
    second: int


class Zebra(GeneratedExamples):
    """Clues as `prompt`, the values of each house from left to right as `answer`; clues leave exactly one solution.

    Values are `a1 a2 … b1 …`: kind and number. Clues, each followed by `;`, in random order: `a1 same b2` (the same
    house), `a1 left b2` (directly left), `a1 next b2`, `a1 before b2` (somewhere left), `a1 in 3`, `a1 not 3` (house).
    No clue is superfluous.
    """

    task = "zebra"
    difficulties: ClassVar[Mapping[str, Level]] = {
        "mini": Level(houses=3, kinds=2, max_clues=6),
        "easy": Level(houses=3, kinds=3, max_clues=9),
        "medium": Level(houses=4, kinds=3, max_clues=12),
        "hard": Level(houses=4, kinds=4, max_clues=16),
    }

    def draw(self, rng: np.random.Generator) -> Example:
        level = self.difficulties[self.difficulty]
        table = _assignments(level.houses, level.kinds)
        solution = int(rng.integers(len(table)))
        clues = _clues(solution, level, rng)
        while len(clues) > level.max_clues:
            clues = _clues(solution, level, rng)
        words = [f"{_text(clue, level.houses)} ;" for clue in clues]
        return {"prompt": " ".join(words), "answer": " ".join(_row(table[solution], level.houses))}

    def content(self, example: Example) -> str:
        """The clues in any order."""
        return " ; ".join(sorted(example["prompt"].split(" ; ")))


def fits_clues(prompt: str, answer: str, reference: str | None = None) -> bool:
    """Whether `answer` gives every house a value of each kind, every value once, and all clues of `prompt` hold."""
    words = answer.split()
    kinds = len({word[0] for word in words})
    houses = len(words) // kinds if kinds else 0
    expected = [f"{KINDS[k % len(KINDS)]}{number + 1}" for k in range(kinds) for number in range(houses)]
    if sorted(words) != sorted(expected) or any(w[0] != KINDS[n % kinds] for n, w in enumerate(words)):
        return False
    house_of = {word: n // kinds for n, word in enumerate(words)} | {str(n + 1): n for n in range(houses)}
    clues = [clue.split() for clue in prompt.strip().removesuffix(";").split(";")]
    return all(
        len(clue) == 3
        and clue[1] in RELATIONS
        and clue[0] in house_of
        and clue[2] in house_of
        and RELATIONS[clue[1]](house_of[clue[0]], house_of[clue[2]])
        for clue in clues
    )


def draw_houses(prompt: str) -> dict[str, Any] | None:
    """The houses as rows and the kinds as columns, with the solution; None for any other text."""
    clues = [clue.split() for clue in prompt.strip().removesuffix(";").split(";")]
    for level in Zebra.difficulties.values():
        table = _assignments(level.houses, level.kinds)
        names = {name: n for n, name in enumerate(_names(level))}
        numbers = {str(n + 1): n for n in range(level.houses)}
        known = all(
            len(c) == 3 and c[1] in RELATIONS and c[0] in names and c[2] in (numbers if c[1] in _OF_HOUSES else names)
            for c in clues
        )
        if not known:
            continue
        seconds = [numbers[c[2]] if c[1] in _OF_HOUSES else names[c[2]] for c in clues]
        found = _solutions([Clue(names[c[0]], c[1], n) for c, n in zip(clues, seconds, strict=True)], level)
        if found.bit_count() == 1:
            row = _row(table[found.bit_length() - 1], level.houses)
            right = [row[h * level.kinds : (h + 1) * level.kinds] for h in range(level.houses)]
            return grid([[None] * level.kinds] * level.houses, right=right, title=prompt)
    return None


@cache
def _assignments(houses: int, kinds: int) -> Ints:
    """(A, kinds · houses) the house of each value in every assignment."""
    orders = np.array(list(permutations(range(houses))), dtype=np.int8)
    rows = np.array(list(product(range(len(orders)), repeat=kinds)))
    return orders[rows].reshape(len(rows), kinds * houses)


@cache
def _holding(clue: Clue, level: Level) -> int:
    """The assignments in which a clue holds, as a bit each; the first one is the lowest."""
    table = _assignments(level.houses, level.kinds)
    holds = RELATIONS[clue.relation](table.T[clue.first], _second(clue, table.T))
    return int.from_bytes(np.packbits(holds, bitorder="little").tobytes(), "little")


def _second(clue: Clue, houses: Any) -> Any:
    """The second house of a clue, from the house of each value."""
    return clue.second if clue.relation in _OF_HOUSES else houses[clue.second]


def _clues(solution: int, level: Level, rng: np.random.Generator) -> list[Clue]:
    """True clues in random order that leave only the solution, none superfluous."""
    left, clues = _all(level), []
    houses = _assignments(level.houses, level.kinds)[solution].tolist()
    is_unique = left.bit_count() == 1
    while not is_unique:
        clue = _random_clue(level, rng)
        # False ones are left out first: the sets of assignments are large.
        if clue is None or not RELATIONS[clue.relation](houses[clue.first], _second(clue, houses)):
            continue
        kept = left & _holding(clue, level)
        if kept != left:
            left, is_unique = kept, kept.bit_count() == 1
            clues.append(clue)
    needed = clues.copy()
    for clue in clues:
        others = [other for other in needed if other is not clue]
        if _solutions(others, level).bit_count() == 1:
            needed = others
    return [needed[n] for n in rng.permutation(len(needed)).tolist()]


def _all(level: Level) -> int:
    return (1 << len(_assignments(level.houses, level.kinds))) - 1


def _solutions(clues: list[Clue], level: Level) -> int:
    """The assignments in which all clues hold, as a bit each."""
    found = _all(level)
    for clue in clues:
        found &= _holding(clue, level)
    return found


def _random_clue(level: Level, rng: np.random.Generator) -> Clue | None:
    """A clue that may be wrong; None if it would say nothing."""
    relation = list(RELATIONS)[int(rng.integers(len(RELATIONS)))]
    first = int(rng.integers(level.houses * level.kinds))
    second = int(rng.integers(level.houses if relation in _OF_HOUSES else level.houses * level.kinds))
    of_one_kind = relation not in _OF_HOUSES and first // level.houses == second // level.houses
    says_nothing = of_one_kind and (first == second or relation == "same")
    return None if says_nothing else Clue(first, relation, second)


def _names(level: Level) -> list[str]:
    return [f"{KINDS[k]}{number + 1}" for k in range(level.kinds) for number in range(level.houses)]


def _text(clue: Clue, houses: int) -> str:
    def name(value: int) -> str:
        return f"{KINDS[value // houses]}{value % houses + 1}"

    second = str(clue.second + 1) if clue.relation in _OF_HOUSES else name(clue.second)
    return f"{name(clue.first)} {clue.relation} {second}"


def _row(assignment: Ints, houses: int) -> list[str]:
    """The values of each house from left to right, by kind."""
    by_kind = assignment.reshape(-1, houses).argsort(axis=1)  # (kinds, houses): the value in each house
    return [f"{KINDS[k]}{value + 1}" for values in by_kind.T.tolist() for k, value in enumerate(values)]

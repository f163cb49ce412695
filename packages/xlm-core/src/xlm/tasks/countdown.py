"""Countdown: an expression that reaches a target with given numbers. Examples and a judge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import ClassVar

import numpy as np

from xlm.tasks.generated import Example, GeneratedExamples

LARGEST = 100
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r"\s*(\d+|[-+*/()])")
_MAX_LENGTH = 1000


@dataclass(frozen=True)
class Level:
    """`count` numbers of 1 to `largest`."""

    count: int
    largest: int


class Countdown(GeneratedExamples):
    """Numbers and a target as `prompt` (`3 7 25 : 46`), an expression as `answer` (`( 25 - 3 ) + ...`).

    The target (1 to 100) is the value of a random expression of all numbers, in which every step gives a whole number
    above 0. A number is one token.
    """

    task = "countdown"
    difficulties: ClassVar[Mapping[str, Level]] = {
        "mini": Level(count=3, largest=50),
        "easy": Level(count=4, largest=50),
        "medium": Level(count=5, largest=100),
        "hard": Level(count=6, largest=100),
    }

    def draw_block(self, rng: np.random.Generator) -> list[Example]:
        random = Random(int(rng.integers(2**63)))  # numpy's is slow for single numbers
        return [self._draw(random) for _ in range(self.block_size)]

    def draw(self, rng: np.random.Generator) -> Example:
        return self._draw(Random(int(rng.integers(2**63))))

    def _draw(self, random: Random) -> Example:
        level = self.difficulties[self.difficulty]
        while True:
            numbers = [1 + _below(level.largest, random) for _ in range(level.count)]
            found = _random_expression(numbers, random)
            if found is not None:
                target, expression = found
                return {"prompt": f"{' '.join(map(str, numbers))} : {target}", "answer": expression}

    def content(self, example: Example) -> str:
        """The numbers in any order, and the target."""
        numbers, _, target = example["prompt"].partition(" : ")
        return f"{sorted(map(int, numbers.split()))} {target}"


def reaches_target(prompt: str, answer: str, reference: str | None = None) -> bool:
    """Whether `answer` is an expression of `+ - * /` and brackets with every number once and the target as its value.

    Fractions on the way are allowed. `reference` isn't needed.
    """
    given, colon, target = prompt.partition(":")
    if not colon or not re.fullmatch(r"[\d\s]+", given, re.ASCII) or not re.fullmatch(r"\s*\d+\s*", target, re.ASCII):
        return False
    tokens = _tokens(answer)
    if tokens is None or sorted(t for t in tokens if t.isdecimal()) != sorted(given.split()):
        return False
    return value_of(tokens) == int(target)


def value_of(tokens: Sequence[str]) -> Fraction | None:
    """The value of an infix expression; None if it is not one, or divides by 0. By Dijkstra's shunting yard."""
    values: list[Fraction] = []
    operators = ["("]  # a bracket around everything; without it, the expression has ended
    expects_value = True
    for token in [*tokens, ")"]:
        if not operators:
            return None
        if expects_value:
            if token == "(":
                operators.append(token)
            elif token.isdecimal():
                values.append(Fraction(int(token)))
                expects_value = False
            else:
                return None
        elif token in _PRECEDENCE or token == ")":
            while operators[-1] != "(" and _PRECEDENCE.get(token, 0) <= _PRECEDENCE[operators[-1]]:
                if not _apply(operators.pop(), values):
                    return None
            if token == ")":
                operators.pop()
            else:
                operators.append(token)
                expects_value = True
        else:
            return None
    return None if operators else values[0]


def _apply(operator: str, values: list[Fraction]) -> bool:
    """Combine the last two values; False for a division by 0."""
    b, a = values.pop(), values.pop()
    if operator == "/" and b == 0:
        return False
    values.append(a + b if operator == "+" else a - b if operator == "-" else a * b if operator == "*" else a / b)
    return True


def _tokens(text: str) -> list[str] | None:
    """Numbers, operators and brackets of an expression; None if it has anything else."""
    if len(text) > _MAX_LENGTH or not text.isascii() or re.sub(_TOKEN, "", text).strip():
        return None
    return _TOKEN.findall(text)


def _below(number: int, random: Random) -> int:
    # Only random() gives the same numbers in every version of Python.
    return int(random.random() * number)


def _random_expression(numbers: list[int], random: Random) -> tuple[int, str] | None:
    """The value and the text of a random expression of all numbers; None if the value is out of range."""
    # (value, text, precedence of the outermost operator)
    terms = [(number, str(number), 3) for number in numbers]
    while len(terms) > 1:
        a, left, inner_left = terms.pop(_below(len(terms), random))
        b, right, inner_right = terms.pop(_below(len(terms), random))
        allowed = [operator for operator in "+-*/" if _is_step(a, b, operator, bool(terms))]
        if not allowed:
            return None
        operator = allowed[_below(len(allowed), random)]
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[operator]
        outer = _PRECEDENCE[operator]
        left = f"( {left} )" if inner_left < outer else left
        right = f"( {right} )" if inner_right < outer or (inner_right == outer and operator in "-/") else right
        terms.append((value, f"{left} {operator} {right}", outer))
    value, text, _ = terms[0]
    return value, text


def _is_step(a: int, b: int, operator: str, is_followed: bool) -> bool:
    """Whether a step gives a whole number above 0 that isn't too large; the last one gives the target."""
    most = 5 * LARGEST if is_followed else LARGEST
    if operator == "/":
        return b > 1 and a % b == 0 and a // b <= most
    return 1 <= (a + b if operator == "+" else a - b if operator == "-" else a * b) <= most

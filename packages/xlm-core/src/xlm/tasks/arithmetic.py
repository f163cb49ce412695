"""Addition of numbers of several lengths, digit by digit: examples and a judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xlm.tasks.generated import Example, GeneratedExamples


@dataclass(frozen=True)
class Level:
    """Sums of numbers that have at most `max_digits` digits."""

    max_digits: int


class Additions(GeneratedExamples):
    """Sums as `prompt` (`57+845=`) and `answer` (`902`); every length of both numbers is equally likely.

    `reverse` writes the answer from its last digit to its first, the order in which carries arise.
    """

    task = "arithmetic"
    difficulties: ClassVar[Mapping[str, Level]] = {
        "mini": Level(max_digits=3),
        "easy": Level(max_digits=5),
        "medium": Level(max_digits=10),
        "hard": Level(max_digits=20),
    }

    def __init__(
        self, tokenizer: Any = None, num_examples: int = 1000, *, reverse: bool = False, **options: Any
    ) -> None:
        super().__init__(tokenizer, num_examples, **options)
        self.reverse = reverse

    def draw(self, rng: np.random.Generator) -> Example:
        a, b = (self._number(rng) for _ in range(2))
        answer = str(a + b)
        return {"prompt": f"{a}+{b}=", "answer": answer[::-1] if self.reverse else answer}

    def content(self, example: Example) -> str:
        return str(example["prompt"])

    def _number(self, rng: np.random.Generator) -> int:
        length = int(rng.integers(1, self.difficulties[self.difficulty].max_digits + 1))
        digits = rng.integers(0, 10, size=length)
        if length > 1:
            digits[0] = rng.integers(1, 10)
        return int("".join(map(str, digits.tolist())))


def is_sum(prompt: str, answer: str, reference: str | None = None, *, reverse: bool = False) -> bool:
    """Whether `answer` is the sum in `prompt` without leading zeros; blanks don't matter. `reference` isn't needed."""
    prompt, answer = "".join(prompt.split()), "".join(answer.split())
    numbers = prompt.removesuffix("=").split("+")
    if not prompt.endswith("=") or not all(_is_number(text) for text in numbers):
        return False
    # As text: Python doesn't read numbers of any length, and an answer may be long.
    return answer == str(sum(map(int, numbers)))[:: -1 if reverse else 1]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 1000

"""Context-free grammars: complete the beginning of a sentence. Grammars, a generator, and a parser as the judge."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random
from typing import ClassVar

import numpy as np

from xlm.errors import DataError
from xlm.tasks.generated import Example, GeneratedExamples, checked_difficulty

# No sentence of these grammars is longer; the parser's time may grow with the cube of the length.
MAX_WORDS = 128

Rules = Mapping[str, tuple[tuple[str, ...], ...]]
_Key = tuple[tuple[str, ...], int]  # symbols, length in words


class Grammar:
    """Rules from a symbol to sequences of symbols; symbols without rules are the words. The first symbol is the start.

    Args:
        rules: as text, alternatives separated by `|`: `{"S": "( S ) | S S | x"}`. DataError for an empty alternative.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self.rules: Rules = {
            head: tuple(tuple(body.split()) for body in bodies.split("|")) for head, bodies in rules.items()
        }
        if empty := [head for head, bodies in self.rules.items() if () in bodies]:
            raise DataError(f"The symbol {empty[0]} has an empty alternative, but every alternative needs a symbol.")
        self.start = next(iter(rules))
        words = (symbol for bodies in self.rules.values() for body in bodies for symbol in body)
        self.words = list(dict.fromkeys(word for word in words if word not in rules))
        self._counts: dict[_Key, int] = {}
        # The possible (length, body) of the first symbol, and the running sums of their numbers of derivations.
        self._choices: dict[_Key, tuple[list[tuple[int, tuple[str, ...]]], list[int]]] = {}

    def accepts(self, sentence: Sequence[str]) -> bool:
        """Whether the words are a sentence, by Earley's algorithm (1970)."""
        n = len(sentence)
        if not 1 <= n <= MAX_WORDS:
            return False
        # An item is (head, body, symbols that are done, where it begins); `waiting[i]`: those at i by the next symbol.
        waiting: list[dict[str, list[tuple[str, tuple[str, ...], int, int]]]] = [{} for _ in range(n + 1)]
        items = [(self.start, body, 0, 0) for body in self.rules[self.start]]
        for place in range(n + 1):
            seen = set(items)
            for head, body, done, begin in items:  # grows
                if done == len(body):
                    found = [(h, b, d + 1, i) for h, b, d, i in waiting[begin].get(head, ())]
                else:
                    symbol = body[done]
                    waiting[place].setdefault(symbol, []).append((head, body, done, begin))
                    found = [(symbol, alternative, 0, place) for alternative in self.rules.get(symbol, ())]
                for item in found:
                    if item not in seen:
                        seen.add(item)
                        items.append(item)
            if place == n:
                return any(h == self.start and d == len(b) and i == 0 for h, b, d, i in items)
            items = [(h, b, d + 1, i) for h, b, d, i in waiting[place].get(sentence[place], ())]
        return False

    def count(self, symbols: tuple[str, ...], length: int) -> int:
        """The number of derivations of `length` words from a sequence of symbols."""
        if len(symbols) > length or not symbols:
            return int(length == 0 and not symbols)
        key = (symbols, length)
        if key not in self._counts:
            first, rest = symbols[0], symbols[1:]
            longest = length - len(rest) if first in self.rules else 1
            self._counts[key] = sum(
                self._count_one(first, n) * self.count(rest, length - n) for n in range(1, longest + 1)
            )
        return self._counts[key]

    def _count_one(self, symbol: str, length: int) -> int:
        if symbol not in self.rules:
            return int(length == 1)
        return sum(self.count(body, length) for body in self.rules[symbol])

    def sample(self, length: int, random: Random) -> list[str]:
        """A sentence of this length: every derivation is equally likely. There must be one."""
        return self._sample((self.start,), length, random)

    def _sample(self, symbols: tuple[str, ...], length: int, random: Random) -> list[str]:
        if not symbols:
            return []
        first, rest = symbols[0], symbols[1:]
        if first not in self.rules:
            return [first, *self._sample(rest, length - 1, random)]
        key = (symbols, length)
        if key not in self._choices:
            choices = [(n, body) for n in range(1, length - len(rest) + 1) for body in self.rules[first]]
            weights = [self.count(body, n) * self.count(rest, length - n) for n, body in choices]
            possible = [(choice, weight) for choice, weight in zip(choices, weights, strict=True) if weight]
            self._choices[key] = [choice for choice, _ in possible], list(accumulate(weight for _, weight in possible))
        bodies, sums = self._choices[key]
        # The product may be rounded up to the sum itself.
        n, body = bodies[min(bisect_right(sums, random.random() * sums[-1]), len(bodies) - 1)]
        return self._sample(body, n, random) + self._sample(rest, length - n, random)


def brackets(kinds: int) -> Grammar:
    """Balanced brackets of several kinds (Dyck words)."""
    pairs = ["( )", "[ ]", "{ }"][:kinds]
    # T: a bracket with its content; S: one or more of them, so every word has one derivation.
    contents = " | ".join(f"{pair} | {pair[0]} S {pair[-1]}" for pair in pairs)
    return Grammar({"S": "T | T S", "T": contents})


# Alternatives of the three symbols of a layer; a sentence has no marks of where they begin and end.
_LAYER = (
    ("1 0", "0 2 1", "2 2 0", "1 1 2"),
    ("2 1", "1 0 2", "0 0 1", "2 0 2"),
    ("0 2", "2 1 0", "1 2 1", "0 1 0"),
)


def layers(depth: int) -> Grammar:
    """Every symbol of a layer is two or three symbols of the next; the last layer is the words 1, 2, 3.

    In the manner of the synthetic grammars of Allen-Zhu and Li (arXiv 2305.13673).
    """

    def below(layer: int, body: str) -> str:
        return " ".join(f"{'ABCDEFGH'[layer]}{s}" if layer < depth - 1 else str(int(s) + 1) for s in body.split())

    rules = {"S": " | ".join(below(0, body) for bodies in _LAYER for body in bodies)}
    for layer in range(depth - 1):
        for number, bodies in enumerate(_LAYER):
            rules[f"{'ABCDEFGH'[layer]}{number}"] = " | ".join(below(layer + 1, body) for body in bodies)
    return Grammar(rules)


@dataclass(frozen=True)
class Level:
    """A grammar by name, its size, and the lengths of sentences in words."""

    kind: str
    size: int
    min_words: int
    max_words: int


DIFFICULTIES = {
    "mini": Level("brackets", 2, 8, 16),
    "easy": Level("brackets", 3, 16, 32),
    "medium": Level("layers", 3, 8, 27),
    "hard": Level("layers", 4, 16, 81),
}


@cache
def grammar_of(difficulty: str) -> Grammar:
    """The grammar of a difficulty; DataError if there is none."""
    level = DIFFICULTIES[checked_difficulty("grammar", difficulty, DIFFICULTIES)]
    return brackets(level.size) if level.kind == "brackets" else layers(level.size)


class Sentences(GeneratedExamples):
    """Beginnings of sentences as `prompt`, the rest as `answer`; a prompt is a quarter to three quarters of a sentence.

    Lengths are uniform among those that the grammar has; for one length, every derivation is equally likely.
    """

    task = "grammar"
    difficulties: ClassVar[Mapping[str, Level]] = DIFFICULTIES

    def draw(self, rng: np.random.Generator) -> Example:
        return self._draw(Random(int(rng.integers(2**63))))

    def draw_block(self, rng: np.random.Generator) -> list[Example]:
        random = Random(int(rng.integers(2**63)))
        return [self._draw(random) for _ in range(self.block_size)]

    def _draw(self, random: Random) -> Example:
        lengths = _lengths(self.difficulty)
        sentence = grammar_of(self.difficulty).sample(lengths[int(random.random() * len(lengths))], random)
        cut = round(len(sentence) * (0.25 + 0.5 * random.random()))
        return {"prompt": " ".join(sentence[:cut]), "answer": " ".join(sentence[cut:])}

    def content(self, example: Example) -> str:
        """The whole sentence, wherever it is cut."""
        return f"{example['prompt']} {example['answer']}"


@cache
def _lengths(difficulty: str) -> list[int]:
    level, grammar = DIFFICULTIES[difficulty], grammar_of(difficulty)
    return [n for n in range(level.min_words, level.max_words + 1) if grammar.count((grammar.start,), n)]


def is_sentence(prompt: str, answer: str, reference: str | None = None, *, difficulty: str = "easy") -> bool:
    """Whether prompt and answer together are a sentence of the grammar. `reference` isn't needed."""
    return bool(answer.split()) and grammar_of(difficulty).accepts([*prompt.split(), *answer.split()])

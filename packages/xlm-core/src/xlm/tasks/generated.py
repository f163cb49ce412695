"""Generated data sets: disjoint splits by a hash of the content, and the base class of generators."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b, sha256
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from xlm.errors import DataError, did_you_mean, nearest_names
from xlm.utils.text_files import checked_text

Hashes = npt.NDArray[np.uint64]
Block = TypeVar("Block")
Example = dict[str, Any]

# The share of all examples in each split, by a hash of their content: no example is in two splits, whatever the seeds
# and sizes.
SPLIT_PARTS = {"train": (0, 14), "val": (14, 15), "test": (15, 16)}
_MAX_FRUITLESS_BLOCKS = 20


def check_request(what: str, split: str, num_examples: int | None, seed: int) -> None:
    """DataError unless there is such a split, and number and seed are at least 0. `what`: a plural for the message."""
    if split not in SPLIT_PARTS:
        raise DataError(f"{what} have no split '{split}'. Choose one of: {', '.join(SPLIT_PARTS)}.")
    if num_examples is None or num_examples < 0 or seed < 0:
        raise DataError(f"{what} need num_examples >= 0 and seed >= 0; got {num_examples} and {seed}.")


def checked_difficulty(what: str, difficulty: str, choices: Iterable[str]) -> str:
    """The difficulty; DataError if it is not one of the choices. `what`: an adjective for the message."""
    names = list(choices)
    if difficulty not in names:
        hint = did_you_mean(nearest_names(difficulty, names))
        raise DataError(f"Unknown {what} difficulty '{difficulty}'. Choose one of: {', '.join(names)}. {hint}".rstrip())
    return difficulty


def content_hash(content: str) -> int:
    """A 64-bit hash of an example's content, the same in every process and version."""
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "big")


def new_examples(
    draw: Callable[[np.random.Generator], Block],
    hashes: Callable[[Block], Hashes],
    *,
    split: str,
    num_examples: int,
    seed: int,
    too_few: Callable[[int], str],
) -> Iterator[tuple[Block, list[int]]]:
    """Blocks with the rows of each that belong to the split and are new, `num_examples` in all.

    Args:
        draw: a block of random examples. Its size must not depend on `num_examples`; then a shorter data set is a
            prefix of a longer one.
        hashes: of the content of each row of a block.
        too_few: the message of the DataError when no new examples are found, from their number so far.
    """
    rng = np.random.default_rng((seed, list(SPLIT_PARTS).index(split)))
    lowest, end = SPLIT_PARTS[split]
    seen: set[int] = set()
    fruitless = 0
    while len(seen) < num_examples:
        block = draw(rng)
        contents = hashes(block)
        parts = contents >> np.uint64(60)
        ours = np.flatnonzero((parts >= lowest) & (parts < end))
        fresh = []
        for row, content in zip(ours.tolist(), contents[ours].tolist(), strict=True):
            if content not in seen and len(seen) < num_examples:
                seen.add(content)
                fresh.append(row)
        fruitless = 0 if fresh else fruitless + 1
        if fruitless == _MAX_FRUITLESS_BLOCKS:
            raise DataError(too_few(len(seen)))
        yield block, fresh


class GeneratedExamples(ABC):
    """The first `num_examples` examples of `split`, as an iterable of dicts, the same for equal arguments.

    No content appears twice or in two splits, whatever the seeds and sizes. A subclass draws one random example in
    `draw`, and says in `content` what makes two examples the same.

    Args:
        tokenizer: not used; every dataset constructor gets it.
        num_examples: a shorter data set is a prefix of a longer one.
        split: train, val or test.
        seed: of the draws; the split of an example doesn't depend on it.
        difficulty: one of the class's `difficulties`.

    Raises:
        DataError: an argument is out of range, or (while iterating) there aren't enough different examples.
    """

    #: Name → settings of the generator, easiest first.
    difficulties: ClassVar[Mapping[str, Any]]
    #: The task in messages, as an adjective.
    task: ClassVar[str]
    #: Examples drawn at once; a constant, so that a shorter data set is a prefix of a longer one.
    block_size: ClassVar[int] = 64

    def __init__(
        self,
        tokenizer: Any = None,
        num_examples: int = 1000,
        *,
        split: str = "train",
        seed: int = 0,
        difficulty: str = "easy",
    ) -> None:
        check_request(f"{self.task} examples", split, num_examples, seed)
        self.difficulty = checked_difficulty(self.task, difficulty, self.difficulties)
        self.num_examples, self.split, self.seed = num_examples, split, seed

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Example:
        """One random example."""

    @abstractmethod
    def content(self, example: Example) -> str:
        """What makes an example, without what doesn't: examples with equal content are the same."""

    def draw_block(self, rng: np.random.Generator) -> Sequence[Example]:
        """`block_size` random examples."""
        return [self.draw(rng) for _ in range(self.block_size)]

    @classmethod
    def source_identity(cls) -> dict[str, str]:
        """The code of the base classes: a change of it makes other prepared data."""
        modules = {
            base.__module__: inspect.getmodule(base) for base in cls.__mro__ if base.__module__.startswith("xlm.")
        }
        sources = {name: inspect.getsource(module) for name, module in sorted(modules.items()) if module is not None}
        return {name: sha256(source.encode()).hexdigest() for name, source in sources.items()}

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[Example]:
        blocks = new_examples(
            self.draw_block,
            lambda block: np.array([content_hash(self.content(row)) for row in block], dtype=np.uint64),
            split=self.split,
            num_examples=self.num_examples,
            seed=self.seed,
            too_few=lambda found: (
                f"There are only {found} different {self.task} examples of difficulty {self.difficulty} for "
                f"'{self.split}', not {self.num_examples}."
            ),
        )
        for block, rows in blocks:
            yield from (block[row] for row in rows)


def symbols_to_ids(
    example: Mapping[str, Any],
    tokenizer: Any,
    *,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    characters: bool = False,
    **_: Any,
) -> dict[str, list[int]]:
    """`prompt_ids` and `input_ids` of two columns of symbols separated by blanks, one token each.

    With `characters`, every character except blanks is a symbol.

    Raises:
        DataError: a column is missing, or the tokenizer doesn't know a symbol.
    """
    prompt, answer = columns_of(example, prompt_column, answer_column)
    return {
        "prompt_ids": known_ids(_symbols(prompt, characters), tokenizer),
        "input_ids": known_ids(_symbols(answer, characters), tokenizer),
    }


def columns_of(example: Mapping[str, Any], *names: str) -> list[str]:
    """The texts in these columns; DataError if one is missing or not a text."""
    if missing := [name for name in names if name not in example]:
        raise DataError(f"the column {missing[0]!r} is missing; it has: {', '.join(example) or 'none'}.")
    return [checked_text(example[name], name) for name in names]


def _symbols(text: str, characters: bool) -> list[str]:
    words = text.split()
    return list("".join(words)) if characters else words


def known_ids(symbols: Sequence[str], tokenizer: Any) -> list[int]:
    """The ids of symbols; DataError naming those that the tokenizer doesn't know."""
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(symbols))
    if tokenizer.unk_token_id in ids:
        unknown = sorted({one for one, token in zip(symbols, ids, strict=True) if token == tokenizer.unk_token_id})
        raise DataError(f"the tokenizer has no token for {', '.join(map(repr, unknown[:5]))}.")
    return ids

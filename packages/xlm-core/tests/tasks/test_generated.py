"""What every generator keeps: equal arguments, equal examples; prefixes; disjoint splits; clear errors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import DataError
from xlm.tasks.generated import GeneratedExamples, symbols_to_ids


class Coins(GeneratedExamples):
    """Three numbers below 10, 12 or 100."""

    task = "coin"
    difficulties: ClassVar[dict[str, int]] = {"mini": 10, "easy": 12, "hard": 100}

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        numbers = rng.integers(self.difficulties[self.difficulty], size=3).tolist()
        return {"prompt": " ".join(map(str, numbers)), "answer": str(sum(numbers))}

    def content(self, example: dict[str, Any]) -> str:
        return str(sorted(example["prompt"].split()))


def test_equal_arguments_give_equal_examples_and_shorter_is_a_prefix() -> None:
    whole = list(Coins(None, 700, difficulty="hard"))
    assert whole == list(Coins(None, 700, difficulty="hard"))
    assert list(Coins(None, 30, difficulty="hard")) == whole[:30]
    assert len(Coins(None, 30)) == 30
    assert list(Coins(None, 700, difficulty="hard", seed=1)) != whole


def test_no_content_twice_or_in_two_splits_whatever_the_seed() -> None:
    seen: dict[str, set[str]] = {}
    for split, number in (("train", 1500), ("val", 100), ("test", 100)):
        for seed in (0, 1):
            examples = Coins(None, number, split=split, seed=seed, difficulty="hard")
            contents = [examples.content(example) for example in examples]
            assert len(set(contents)) == number
            seen.setdefault(split, set()).update(contents)
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]


def test_a_space_that_is_too_small_is_an_error_that_says_how_small() -> None:
    with pytest.raises(DataError, match=r"There are only 1\d\d different coin examples of difficulty mini for 'train'"):
        list(Coins(None, 1000, difficulty="mini"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"difficulty": "hrad"},
            "Unknown coin difficulty 'hrad'. Choose one of: mini, easy, hard. Did you mean 'hard'?",
        ),
        ({"split": "dev"}, "coin examples have no split 'dev'. Choose one of: train, val, test."),
        ({"num_examples": -1}, "coin examples need num_examples >= 0 and seed >= 0; got -1 and 0."),
        ({"num_examples": None}, "coin examples need num_examples >= 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Coins(**arguments)
    assert message in str(caught.value)


def test_the_code_of_the_base_class_is_part_of_the_identity() -> None:
    assert "xlm.tasks.generated" in Coins.source_identity()


def test_symbols_become_ids_or_are_named() -> None:
    tokenizer = SimpleSpaceTokenizer.for_numbers(10)
    assert symbols_to_ids({"prompt": "1 2", "answer": "3"}, tokenizer) == {"prompt_ids": [8, 9], "input_ids": [10]}
    with pytest.raises(DataError, match="no token for '12', 'x'"):
        symbols_to_ids({"prompt": "1 x 12", "answer": "3"}, tokenizer)
    with pytest.raises(DataError, match="column 'answer' is missing; it has: prompt"):
        symbols_to_ids({"prompt": "1"}, tokenizer)

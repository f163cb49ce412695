"""Word problems: columns of the published data, and answers that are run and compared as numbers."""

from __future__ import annotations

from typing import Any

import pytest

from xlm.errors import DataError
from xlm.tasks.sandbox import Limits
from xlm.tasks.tinygsm import gsm_preprocess, is_right_program, number_in, result_of

PROGRAM = '''def simple_math_problem() -> int:
    """
    Ann has 6 apples and buys 7 bags of 6. How many has she?
    """
    apples = 6 + 7 * 6
    result = apples
    return result
'''


def characters(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
    assert not add_special_tokens
    return {"input_ids": [ord(character) for character in text]}


def texts(example: dict[str, Any]) -> tuple[str, str]:
    found = gsm_preprocess(example, characters)
    return "".join(map(chr, found["prompt_ids"])), "".join(map(chr, found["input_ids"]))


def test_columns_of_both_data_sets() -> None:
    assert texts({"question": " How many? ", "code": PROGRAM}) == ("How many?\n", PROGRAM.strip())
    assert texts({"question": "How many?", "answer": "6*7=<<6*7=42>>42\n#### 1,042"}) == ("How many?\n", "1042")
    assert texts({"question": "How much?", "answer": "so\n#### -2.50"}) == ("How much?\n", "-2.5")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"prompt": "a"}, "the columns are question, and code or answer; it has: prompt"),
        ({"question": "a"}, "it has: question"),
        ({"question": "a", "answer": "#### none"}, "has no number after ####"),
        ({"question": None, "code": "a"}, "column 'question' holds null"),
    ],
)
def test_what_is_refused(example: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gsm_preprocess(example, characters)


@pytest.mark.parametrize(
    ("text", "number"),
    [("42", 42), ("a 1,234.5 b", 1234.5), ("-3", -3), ("1 then 2", 2), (".5", 0.5), ("none", None), ("", None)],
)
def test_the_last_number_of_a_text(text: str, number: float | None) -> None:
    assert number_in(text) == number


def test_a_program_is_right_if_its_number_is() -> None:
    assert is_right_program("", PROGRAM, "48") == {"valid": True, "runs": 1.0}
    assert is_right_program("", PROGRAM, "47") == {"valid": False, "runs": 1.0}
    # Another program with the same number, which prints something and has a helper.
    other = "def double(x):\n    return 2 * x\n\ndef answer():\n    print('xlm', 7)\n    return double(24.0)\n"
    assert is_right_program("", other, PROGRAM) == {"valid": True, "runs": 1.0}


@pytest.mark.parametrize(
    "answer",
    ["", "48", "def f(:", "def f(x):\n    return 48", "def f():\n    return 'many'", "def f():\n    return 1 / 0",
     "def f():\n    return float('inf')", "def f():\n    while True:\n        pass",
     "def f():\n    return 1\nraise SystemExit(0)", "def f():\n    pass"],
)  # fmt: skip
def test_what_gives_no_number_is_wrong(answer: str) -> None:
    assert is_right_program("", answer, "48", seconds=0.5) == {"valid": False, "runs": 0.0}


def test_a_reference_without_a_number_has_no_right_answer() -> None:
    assert is_right_program("", PROGRAM, None) == {"valid": False, "runs": 1.0}
    assert result_of(PROGRAM, Limits()) == 48

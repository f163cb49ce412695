"""Boxed answers: found with nested braces, and compared after normalization."""

from __future__ import annotations

import pytest

from xlm.errors import DataError
from xlm.tasks.math500 import boxed, is_same_answer, math_preprocess, normalized


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\fbox{3}", "3"),
        (r"\boxed{1", None),
        ("42", None),
    ],
)
def test_the_last_box(text: str, found: str | None) -> None:
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.5", r"\frac{1}{2}"),
        (r"\dfrac12", "1/2"),
        (r"-\frac{2}{4}", "-.5"),
        ("10,000", "10000"),
        (r"\$5", "5"),
        (r"90^\circ", "90"),
        (r"50\%", "50"),
        (r"x = 5", "5.0"),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\frac{\pi}{2})"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\frac{ 14}{ 3 }.", r"\frac{14}{3}"),
    ],
)
def test_two_forms_of_one_answer(one: str, other: str) -> None:
    assert normalized(one) == normalized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5", "-5"), ("1/2", "2"), ("(1,2)", "(2,1)"), ("x+1", "x-1"), (r"\frac{1}{0}", "0"), ("1,2", "12"), ("x=y", "x")],
)
def test_different_answers_stay_different(one: str, other: str) -> None:
    assert normalized(one) != normalized(other)


def test_the_judge_compares_boxes() -> None:
    solution = r"We get $\boxed{\left( 3, \frac{\pi}{2} \right)}.$"
    assert is_same_answer("", r"\boxed{(3,\frac{\pi}{2})}", solution) == {"valid": True, "boxed": 1.0}
    assert is_same_answer("", r"\boxed{3}", solution) == {"valid": False, "boxed": 1.0}
    assert is_same_answer("", "3", "3") == {"valid": False, "boxed": 0.0}
    assert is_same_answer("", r"\boxed{3}", "3")["valid"]
    assert not is_same_answer("", r"\boxed{3}", None)["valid"]


def test_columns() -> None:
    def characters(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": list(map(ord, text))}

    found = math_preprocess({"problem": "1+1?", "answer": "2"}, characters)
    assert "".join(map(chr, found["input_ids"])) == r"\boxed{2}"
    found = math_preprocess({"problem": "1+1?", "solution": r"So \boxed{2}.", "answer": "2"}, characters)
    assert "".join(map(chr, found["input_ids"])) == r"So \boxed{2}."
    with pytest.raises(DataError, match="the columns are problem, and solution or answer; it has: question"):
        math_preprocess({"question": "1+1?"}, characters)

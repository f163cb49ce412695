r"""MATH-500: answers in a box, `\boxed{…}`, compared after normalization.

500 problems of MATH (Hendrycks et al. 2021, arXiv:2103.03874), chosen by Lightman et al. 2023, arXiv:2305.20050.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from xlm.data.functional import prompt_and_answer_to_ids
from xlm.errors import DataError
from xlm.utils.text_files import checked_text

_BOXES = ("\\boxed{", "\\fbox{")
# What doesn't change a value: spaces, sizes of brackets, units in degrees, dollars.
_REMOVED = re.compile(r"\\[!,;: ]|\\left(?![a-z])|\\right(?![a-z])|\^\{?\\circ\}?|\\?[$%]|\s+|\\displaystyle")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?:\\!)?(?=\d{3}(?:\D|$))")
_FRACTION = re.compile(r"^(-?)(?:\\frac\{(-?\d+)\}\{(-?\d+)\}|(-?\d+)/(\d+))$")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)")
_SHORT_ROOT = re.compile(r"\\sqrt(\w)")


def math_preprocess(example: Mapping[str, Any], tokenizer: Any, **_: Any) -> dict[str, Any]:
    """`prompt_ids` of the problem and `input_ids` of its solution, or of `answer` in a box if there is none.

    Raises:
        DataError: a column is missing.
    """
    column = "solution" if "solution" in example else "answer"
    if "problem" not in example or column not in example:
        raise DataError(f"the columns are problem, and solution or answer; it has: {', '.join(example) or 'none'}.")
    answer = checked_text(example[column], column)
    boxed = answer if column == "solution" else f"\\boxed{{{answer}}}"
    row = {"prompt": checked_text(example["problem"], "problem").strip() + "\n", "answer": boxed}
    return prompt_and_answer_to_ids(row, tokenizer)


def boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{…}` of a text, with nested braces; None without a complete one."""
    start = max(text.rfind(box) for box in _BOXES)
    if start < 0:
        return None
    first = text.index("{", start) + 1
    depth = 1
    for end in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[first:end]
    return None


def normalized(answer: str) -> str:
    """An answer without what doesn't change its value; numbers and fractions of integers in one form."""
    text = answer.strip().rstrip(".")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cdot", "*").replace("\\times", "*")
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", _THOUSANDS.sub("", text)))
    text = _REMOVED.sub("", _TEXT.sub(r"\1", text))
    # x = 5 is answered by 5.
    name, equal, value = text.partition("=")
    text = value if equal and len(name) <= 2 else text
    return _number(text) or text


def _number(text: str) -> str | None:
    """A rational number in lowest terms; None for anything else."""
    try:
        if match := _FRACTION.match(text):
            sign, a, b, c, d = match.groups()
            value = Fraction(int(a or c), int(b or d))
            return str(-value if sign else value)
        return str(Fraction(text)) if re.fullmatch(r"-?\d*\.?\d+", text) else None
    except ZeroDivisionError:
        return None


def is_same_answer(prompt: str, answer: str, reference: str | None) -> dict[str, float | bool | None]:
    """Whether the boxed answers are the same after normalization; `boxed` is whether there is one in a box."""
    found, expected = boxed(answer), boxed(reference or "")
    expected = reference if expected is None else expected
    is_same = found is not None and expected is not None and normalized(found) == normalized(expected)
    return {"valid": is_same, "boxed": float(found is not None)}

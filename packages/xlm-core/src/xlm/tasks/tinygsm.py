"""Word problems answered by a program: trained on TinyGSM, tested on GSM8K by running the answers.

TinyGSM (Liu et al. 2023, arXiv:2312.09241) has questions and Python functions `simple_math_problem()` that return the
answer; GSM8K (Cobbe et al. 2021, arXiv:2110.14168) has solutions that end in `#### 42`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from xlm.data.functional import prompt_and_answer_to_ids
from xlm.errors import DataError
from xlm.tasks.sandbox import Limits, run_python
from xlm.utils.text_files import checked_text

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_FUNCTION = re.compile(r"^def\s+(\w+)\s*\(", re.MULTILINE)
# Marks the line of the result among what the program itself prints.
_RESULT = "xlm-result:"


def gsm_preprocess(example: Mapping[str, Any], tokenizer: Any, **_: Any) -> dict[str, Any]:
    """`prompt_ids` of the question; `input_ids` of the program (TinyGSM) or of the number after #### (GSM8K).

    Raises:
        DataError: a column is missing, or an answer has no number.
    """
    columns = [name for name in ("code", "answer") if name in example]
    if "question" not in example or not columns:
        raise DataError(f"the columns are question, and code or answer; it has: {', '.join(example) or 'none'}.")
    answer = checked_text(example[columns[0]], columns[0])
    if columns[0] == "answer":
        number = number_in(answer.rpartition("####")[2])
        if number is None:
            raise DataError(f"the answer {answer[-40:]!r} has no number after ####.")
        answer = f"{number:g}" if not number.is_integer() else str(int(number))
    # A program begins in a line of its own.
    row = {"prompt": checked_text(example["question"], "question").strip() + "\n", "answer": answer.strip()}
    return prompt_and_answer_to_ids(row, tokenizer)


def number_in(text: str) -> float | None:
    """The last number of a text, with commas between thousands; None without one."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def result_of(program: str, limits: Limits) -> float | None:
    """What the last function of a program returns, called without arguments; None if it isn't a finite number."""
    names = _FUNCTION.findall(program)
    if not names:
        return None
    ran = run_python(f"{program}\nprint({_RESULT!r} + repr(float({names[-1]}())))", limits)
    lines = [line for line in ran.output.splitlines() if line.startswith(_RESULT)]
    if ran.outcome != "ok" or not lines:
        return None
    value = float(lines[-1].removeprefix(_RESULT))
    return value if math.isfinite(value) else None


def is_right_program(
    prompt: str, answer: str, reference: str | None, *, seconds: float = 5.0, tolerance: float = 1e-4
) -> dict[str, float | bool | None]:
    """Whether running the answer gives the reference's number; `runs` is whether it gives any number.

    Args:
        reference: a program or a number.
        seconds: time limit of a program.
        tolerance: relative difference, and absolute one near 0, up to which numbers are equal.
    """
    limits = Limits(seconds=seconds)
    found = result_of(answer, limits)
    text = reference or ""
    expected = result_of(text, limits) if _FUNCTION.search(text) else number_in(text)
    is_equal = found is not None and expected is not None
    is_equal = is_equal and math.isclose(found or 0.0, expected or 0.0, rel_tol=tolerance, abs_tol=tolerance)
    return {"valid": is_equal, "runs": float(found is not None)}
